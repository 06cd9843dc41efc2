"""Text of unknown origin (class names, sentences, error messages) made safe to look at.

Escaping for HTML or Markdown is the renderer's; here invisible and direction-changing characters become
visible, so that a name cannot reorder or hide what stands around it.
"""

from __future__ import annotations

import re
import unicodedata

_JOINERS = "\u200c\u200d"  # zero-width (non-)joiners: spelling in Persian, emoji sequences
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # Unicode general categories: controls, formats, separators
# What means something within a line of GFM; `://` and `www.` make links of what stands around them.
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&!$#@]|:(?=/)|(?<=www)\.)", re.IGNORECASE)
# GitHub looks for e-mail addresses, @names, #1 and xmpp: when escapes are gone (cmark-gfm, autolink.c).
_REFERENCE = re.compile(r"(@|#(?=\w))")
_APART = "\\1&#8203;"  # zero-width space


def display(value: object, limit: int = 80, lines: bool = False) -> str:
    r"""At most `limit` visible characters; a newline shows as \n unless `lines` are kept."""
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
    """Inline text for CommonMark and GFM table cells."""
    return _REFERENCE.sub(_APART, _MARKDOWN.sub(r"\\\1", display(value, limit)))
