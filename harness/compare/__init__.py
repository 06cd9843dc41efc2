"""A run against a baseline run: what became worse, what became better, and what cannot be told."""
