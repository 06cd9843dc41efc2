"""Evaluation harness for models: accuracy and speed on given hardware, and whether differences are real."""


def __getattr__(name: str) -> str:
    """Return `__version__` of the installed distribution, looked up only when it is requested."""
    if name == "__version__":
        from importlib.metadata import version

        return version("harness")
    raise AttributeError(f"module 'harness' has no attribute {name!r}")
