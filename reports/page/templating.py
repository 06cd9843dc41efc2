"""The jinja2 environment of every page: escapes text, limits its length and shows hidden characters."""

from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from reports.figures import printed, trainings_text
from reports.text import display

_LONGEST = 4000  # characters of an error message or a command that are shown
_VALUE = 500  # the same for any other value


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
        printed=printed,
        short=display,
        trainings=trainings_text,
        sortable=lambda value: "" if value is None else repr(value),
    )
    return made


def template(name: str) -> str:
    """Return the text of a file in `reports/page/templates`."""
    return (files("reports.page") / "templates" / name).read_text(encoding="utf-8")
