"""Standard output and standard error, which never show a terminal what may control it."""

import os
import sys
from typing import Any, TextIO

from reports.text import visible


def redirect_to_null(stream: Any) -> None:
    """Redirect a stream whose file cannot be written, and the text in its buffer, to the null device."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class VisibleStream:
    """Writes text with its hidden characters made visible, such as the escapes of a class name.

    Rich, whose own escapes are wanted, writes to `rich_proxied_file`. `SafeConsole` treats its text alike.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write a text and return its length. An error message that cannot be written is lost.

        Raises:
            OSError: Standard output cannot be written.
        """
        try:
            self.rich_proxied_file.write(visible(text))
        except OSError:
            if self.rich_proxied_file is not sys.__stderr__:
                raise
            redirect_to_null(self)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)
