"""The jinja2 environment of every page: escapes text, cuts it to a length and shows hidden characters."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from reports.figures import printed
from reports.text import display

_LONGEST = 4000  # characters shown of an error message or a command
_VALUE = 500  # of any other value; what is cut says by how much


def environment() -> Environment:
    """With the filters that all pages share."""
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(template),
        finalize=lambda value: value if isinstance(value, Markup) else display(value, _VALUE),
    )
    made.filters.update(
        lines=lambda text, limit=_LONGEST: Markup(escape(display(text, limit, lines=True))),
        printed=printed,
        short=display,
        sortable=lambda value: "" if value is None else repr(value),
    )
    return made


def template(name: str) -> str:
    """The text of a file of `reports/templates`."""
    return (files("reports.page") / "templates" / name).read_text(encoding="utf-8")
