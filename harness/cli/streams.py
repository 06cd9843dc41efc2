"""Standard output and standard error, which never show a terminal what may control it."""

from typing import Any, TextIO

from reports.text import visible


class VisibleStream:
    """Writes text with its hidden characters made visible, such as the escapes of a class name.

    Rich, whose own escapes are wanted, writes to `rich_proxied_file`. `SafeConsole` treats its text alike.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write a text and return its length."""
        self.rich_proxied_file.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)
