"""Figures of prediction files: scored against annotation files, and compared with other systems'."""
