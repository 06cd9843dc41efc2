"""Comparison of a run with a baseline: what became worse, what became better, and what is inconclusive."""
