"""The Python surface that `import harness` offers. See docs/python.md."""
