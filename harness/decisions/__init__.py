"""Decide claims about a quantity against a margin."""
