"""Words and patterns of the `phrases` corpus in English and one other language, from CLDR and num2words.

Patterns have `{}` in place of a number. They are derived from CLDR's texts for the number 5, whose plural
form is that of 2–99 in English, German and French. The number 1 is excluded because it agrees in gender with
the noun that follows.
"""

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import yaml
from babel import Locale
from babel.dates import format_date, format_time, format_timedelta
from babel.numbers import get_currency_name
from babel.units import format_unit
from num2words import num2words

T = TypeVar("T")

Language = Literal["de", "fr"]
TextPair: TypeAlias = tuple[str, str]
"""An English text and its translation."""

_CLDR = yaml.safe_load(Path(__file__).with_name("cldr.yaml").read_text(encoding="utf-8"))
_DURATIONS = {"minute": 60, "hour": 3600, "day": 86_400, "week": 7 * 86_400}  # unit → seconds
_TIMES_OF_DAY = [datetime.time(hour, minute) for hour in range(24) for minute in range(0, 60, 15)]
_LEAP_YEAR = datetime.date(2024, 1, 1)
_SAMPLE_DATE = datetime.date(2024, 3, 17)  # any date whose parts are all different


@dataclass(frozen=True)
class Lexicon:
    """Words and patterns of clauses. Fingerprints depend on the names and the order of the fields."""

    cardinals: tuple[TextPair, ...]  # 2–99 in words, only those that are the same with every noun
    ordinals: tuple[TextPair, ...]  # 2–99
    units: tuple[TextPair, ...]  # ("{} hours", "{} Stunden")
    below_zero: TextPair  # ("minus {}", "minus {}")
    currencies: tuple[TextPair, ...]  # ("Swiss francs", "Schweizer Franken")
    ago: tuple[TextPair, ...]  # ("{} hours ago", "vor {} Stunden")
    ahead: tuple[TextPair, ...]  # ("in {} hours", "in {} Stunden")
    dates: tuple[TextPair, ...]  # of a leap year: ("March 17, {}", "17. März {}")
    full_date: TextPair  # weekday and date: ("{}, {}", "{}, {}")
    weekdays: tuple[TextPair, ...]  # from Monday
    months: tuple[TextPair, ...]
    times: tuple[TextPair, ...]  # ("3:45 PM", "15:45")
    languages: tuple[TextPair, ...]
    territories: tuple[TextPair, ...]

    @property
    def content(self) -> str:
        """Return all entries as text, for fingerprints."""
        return repr(asdict(self))


@cache
def build_lexicon(language: Language) -> Lexicon:
    """Build the lexicon of English and another language, once per process. This takes about 0.5 s."""

    def pairs(text: Callable[[T, str], str], values: Iterable[T]) -> tuple[TextPair, ...]:
        return tuple((_plain(text(value, "en")), _plain(text(value, language))) for value in values)

    english, other = Locale("en"), Locale(language)
    # "vingt et un" becomes "vingt et une" before a feminine noun; German "einundzwanzig" does not change.
    invariant = [n for n in range(2, 100) if language != "fr" or n % 10 != 1 or n in (11, 71, 91)]
    return Lexicon(
        cardinals=pairs(_cardinal, invariant),
        ordinals=pairs(lambda number, code: num2words(number, lang=code, to="ordinal"), range(2, 100)),
        units=pairs(
            lambda unit, code: format_unit(5, unit, locale=code).replace("5", "{}"),
            [f"{measure}-{unit}" for measure, units in _CLDR["units"].items() for unit in units],
        ),
        below_zero=pairs(_below_zero, [5])[0],
        currencies=pairs(lambda name, code: get_currency_name(name, 5, code), _CLDR["currencies"]),
        ago=pairs(_relative_time, [(-seconds, unit) for unit, seconds in _DURATIONS.items()]),
        ahead=pairs(_relative_time, [(seconds, unit) for unit, seconds in _DURATIONS.items()]),
        dates=pairs(_date, [_LEAP_YEAR + datetime.timedelta(days) for days in range(366)]),
        full_date=pairs(_full_date, [_SAMPLE_DATE])[0],
        weekdays=pairs(_weekday, range(7)),
        months=pairs(lambda month, code: Locale(code).months["format"]["wide"][month], range(1, 13)),
        times=pairs(lambda time, code: format_time(time, "short", locale=code), _TIMES_OF_DAY),
        languages=_plain_names(english.languages, other.languages),
        territories=_plain_names(english.territories, other.territories),
    )


def _plain(text: str) -> str:
    """Replace the no-break spaces of CLDR's French and English texts."""
    return " ".join(text.split())


def _cardinal(number: int, code: str) -> str:
    return str(num2words(number, lang=code))


def _below_zero(number: int, code: str) -> str:
    return _cardinal(-number, code).replace(_cardinal(number, code), "{}")


def _relative_time(duration: tuple[int, str], code: str) -> str:
    """Return CLDR's "in {} hours" or "{} hours ago", in the given unit even if a larger one would fit."""
    seconds, unit = duration
    delta = datetime.timedelta(seconds=5 * seconds)
    text = format_timedelta(delta, granularity=unit, threshold=1e9, add_direction=True, locale=code)
    return str(text).replace("5", "{}")


def _date(day: datetime.date, code: str) -> str:
    return str(format_date(day, "long", code)).replace(str(day.year), "{}")


def _full_date(day: datetime.date, code: str) -> str:
    full, long = (str(format_date(day, style, code)) for style in ("full", "long"))
    return full.replace(long, "{}").replace(_weekday(day.weekday(), code), "{}")


def _weekday(day: int, code: str) -> str:
    return str(Locale(code).days["format"]["wide"][day])


def _plain_names(english: Mapping[str, str], other: Mapping[str, str]) -> tuple[TextPair, ...]:
    """Return the names of two-letter codes, sorted by code, except names with brackets or abbreviations."""
    pairs = (
        (_plain(english[code]), _plain(other[code]))
        for code in sorted(english)
        if len(code) == 2 and code.isalpha() and code in other and code not in _CLDR["not_territories"]
    )
    return tuple(pair for pair in pairs if not re.search(r"[&().,]| - ", " ".join(pair)))
