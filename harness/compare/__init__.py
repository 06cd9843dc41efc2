"""Comparison of a run with a baseline: regressions, improvements and inconclusive changes."""
