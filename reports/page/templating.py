"""The jinja2 environment of every page: escapes text, limits its length and shows hidden characters."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from reports.figures import printed, trainings_text
from reports.text import display

_LONGEST = 4000  # characters of an error message or a command that are shown
_VALUE = 500  # the same for any other value
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff"  # scripts without spaces between words
_WORD = re.compile(rf"\s+|[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


@cache
def environment() -> Environment:
    """Return the environment with the filters that all pages share."""
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(template),
        finalize=lambda value: value if isinstance(value, Markup) else display(value, _VALUE),
    )
    made.filters.update(
        lines=lambda text, limit=_LONGEST: Markup(escape(display(text, limit, lines=True))),
        marked=marked,
        printed=printed,
        short=display,
        trainings=trainings_text,
        sortable=lambda value: "" if value is None else repr(value),
    )
    return made


def marked(text: str, references: Sequence[str], limit: int) -> Markup:
    """Mark the words of a text that differ from its most similar reference."""
    shown = display(text, limit, lines=True)
    words = _WORD.findall(shown)
    others = (_WORD.findall(display(reference, limit, lines=True)) for reference in references)
    matchers = [SequenceMatcher(None, other, words, autojunk=False) for other in others]
    if not matchers:
        return escape(shown)
    closest = max(matchers, key=SequenceMatcher.ratio)
    pieces = [("".join(words[a:b]), kind) for kind, _, _, a, b in closest.get_opcodes() if b > a]
    mark = Markup("<mark>{}</mark>")
    return Markup().join(piece if kind == "equal" else mark.format(piece) for piece, kind in pieces)


def template(name: str) -> str:
    """Return the text of a file in `reports/page/templates`."""
    return (files("reports.page") / "templates" / name).read_text(encoding="utf-8")
