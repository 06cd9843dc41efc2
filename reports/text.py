"""Text of unknown origin (class names, sentences, error messages), made safe to show.

Invisible and direction-changing characters become visible, so that a name cannot reorder or hide the text
around it. Escaping for HTML is left to the templates.
"""

import json
import re
import unicodedata

_JOINERS = "\u200c\u200d"  # zero-width (non-)joiners: spelling in Persian, emoji sequences
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode general categories: controls, formats, separators
# Characters with a meaning inside a line of GFM; `://` and `www.` turn the text around them into links.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&!$#@]|:(?=/)|(?<=www)\.)", re.IGNORECASE)
# GitHub links e-mail addresses, @names, #1, GH-1 and xmpp: after it has removed escapes (cmark-gfm's
# autolink.c).
_REFERENCE = re.compile(r"(@|#(?=\w)|\bGH(?=-\d))", re.IGNORECASE)
_SEPARATED = "\\1&#8203;"  # zero-width space


class _Visible(dict[int, str]):
    """The text to show for a character, by its code; filled on demand."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_hidden = unicodedata.category(character) in _HIDDEN and character not in f"{_JOINERS}\t\n"
        self[code] = json.dumps(character)[1:-1] if is_hidden else character
        return self[code]


_VISIBLE = _Visible()


def visible(text: str) -> str:
    r"""Return text that cannot control a terminal: hidden characters become \u001b or \u202e.

    Tabs and line ends stay. The codes are those of JSON, so a JSON document keeps its meaning.
    """
    return text.translate(_VISIBLE)


def display(value: object, limit: int = 80, lines: bool = False) -> str:
    r"""Return at most `limit` characters, all visible. A newline becomes \n unless `lines` is true."""
    text = str(value)
    shown = "".join(_visible(character, lines) for character in text[:limit])
    return f"{shown}… (+{len(text) - limit} characters)" if len(text) > limit else shown


def _visible(character: str, lines: bool) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    if lines and character == "\n":
        return character
    return character.encode("unicode_escape").decode()


def markdown(value: object, limit: int = 80) -> str:
    """Escape inline text for CommonMark and cells of GFM tables."""
    return _REFERENCE.sub(_SEPARATED, _MARKDOWN.sub(r"\\\1", display(value, limit)))
