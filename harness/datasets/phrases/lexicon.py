"""Words and patterns of the `phrases` corpus in English and one other language, from CLDR and num2words.

Patterns have `{}` where a number goes. They are taken from CLDR with the number 5, whose plural form is
that of 2–99 in English, German and French; 1 is left out, since it agrees in gender with what follows.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

from babel import Locale
from babel.dates import format_date, format_time, format_timedelta
from babel.numbers import get_currency_name
from babel.units import format_unit
from num2words import num2words

Language = Literal["de", "fr"]
Pair = tuple[str, str]
"""The English text and its translation."""

_UNITS = {
    "area": ("acre", "hectare", "square-kilometer", "square-meter"),
    "digital": ("bit", "byte", "gigabyte", "kilobyte", "megabyte"),
    "duration": ("day", "hour", "millisecond", "minute", "month", "second", "week", "year"),
    "electric": ("ampere", "ohm", "volt"),
    "energy": ("calorie", "joule", "kilocalorie", "kilowatt-hour"),
    "frequency": ("hertz", "kilohertz", "megahertz"),
    "length": (
        "centimeter",
        "foot",
        "inch",
        "kilometer",
        "light-year",
        "meter",
        "mile",
        "millimeter",
        "yard",
    ),
    "mass": ("gram", "kilogram", "ounce", "pound", "tonne"),
    "power": ("kilowatt", "megawatt", "watt"),
    "pressure": ("bar",),
    "speed": ("kilometer-per-hour", "knot", "meter-per-second", "mile-per-hour"),
    "temperature": ("celsius", "fahrenheit"),
    "volume": ("barrel", "cubic-meter", "cup", "gallon", "liter", "milliliter", "teaspoon"),
}
_CURRENCIES = (
    "ARS",
    "AUD",
    "BRL",
    "CAD",
    "CHF",
    "CNY",
    "CZK",
    "DKK",
    "EGP",
    "EUR",
    "GBP",
    "HUF",
    "ILS",
    "INR",
    "JPY",
    "KRW",
    "MXN",
    "NOK",
    "NZD",
    "PLN",
    "RUB",
    "SEK",
    "THB",
    "TRY",
    "USD",
    "ZAR",
)
_NOT_TERRITORIES = {"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"}  # unions, pseudo-locales, unknown
_DURATIONS = {"minute": 60, "hour": 3600, "day": 86_400, "week": 7 * 86_400}  # unit → seconds
_QUARTERS = range(0, 24 * 60, 15)  # times of day, minutes
_SAMPLE_DATE = datetime.date(2024, 3, 17)  # any date whose parts cannot be confused


@dataclass(frozen=True)
class Lexicon:
    """What clauses are made of; every entry is a pair."""

    cardinals: tuple[Pair, ...]  # 2–99, spelt out, that agree with any noun
    ordinals: tuple[Pair, ...]  # 2–99
    units: tuple[Pair, ...]  # ("{} hours", "{} Stunden")
    below_zero: Pair  # ("minus {}", "minus {}")
    currencies: tuple[Pair, ...]  # ("Swiss francs", "Schweizer Franken")
    ago: tuple[Pair, ...]  # ("{} hours ago", "vor {} Stunden")
    ahead: tuple[Pair, ...]  # ("in {} hours", "in {} Stunden")
    dates: tuple[Pair, ...]  # of a leap year: ("March 17, {}", "17. März {}")
    full_date: Pair  # weekday and date: ("{}, {}", "{}, {}")
    weekdays: tuple[Pair, ...]  # from Monday
    months: tuple[Pair, ...]
    times: tuple[Pair, ...]  # ("3:45 PM", "15:45")
    languages: tuple[Pair, ...]
    territories: tuple[Pair, ...]

    @property
    def content(self) -> str:
        """Everything in it, for fingerprints."""
        return repr(asdict(self))


@cache
def lexicon(language: Language) -> Lexicon:
    """Build it once per process; about half a second."""
    both = ("en", language)

    def pair(one: str, other: str) -> Pair:
        return _plain(one), _plain(other)

    def cardinal(number: int, kind: str = "cardinal") -> Pair:
        return pair(*(num2words(number, lang=code, to=kind) for code in both))

    def pattern(*texts: str) -> Pair:
        one, other = (text.replace("5", "{}") for text in texts)
        return pair(one, other)

    def relative(sign: int) -> tuple[Pair, ...]:
        return tuple(
            pattern(*(_relative(sign * 5 * seconds, unit, code) for code in both))
            for unit, seconds in _DURATIONS.items()
        )

    # "vingt et un" becomes "vingt et une" before a feminine noun; German "einundzwanzig" does not change.
    agreeing = [n for n in range(2, 100) if language != "fr" or n % 10 != 1 or n in (11, 71, 91)]
    units = [f"{measure}-{unit}" for measure, names in _UNITS.items() for unit in names]
    days = [datetime.date(2024, 1, 1) + datetime.timedelta(days) for days in range(366)]
    names = {code: Locale(code) for code in both}
    return Lexicon(
        cardinals=tuple(cardinal(n) for n in agreeing),
        ordinals=tuple(cardinal(n, "ordinal") for n in range(2, 100)),
        units=tuple(pattern(*(format_unit(5, unit, locale=code) for code in both)) for unit in units),
        below_zero=pair(*(num2words(-5, lang=code).replace(num2words(5, lang=code), "{}") for code in both)),
        currencies=tuple(pair(*(get_currency_name(name, 5, code) for code in both)) for name in _CURRENCIES),
        ago=relative(-1),
        ahead=relative(1),
        dates=tuple(
            pair(*(format_date(day, "long", code).replace("2024", "{}") for code in both)) for day in days
        ),
        full_date=pair(*(_full_date(code) for code in both)),
        weekdays=tuple(pair(*(names[code].days["format"]["wide"][day] for code in both)) for day in range(7)),
        months=tuple(pair(*(names[code].months["format"]["wide"][m] for code in both)) for m in range(1, 13)),
        times=tuple(
            pair(
                *(
                    format_time(datetime.time(minute // 60, minute % 60), "short", locale=code)
                    for code in both
                )
            )
            for minute in _QUARTERS
        ),
        languages=_names(names["en"].languages, names[language].languages),
        territories=_names(names["en"].territories, names[language].territories),
    )


def _plain(text: str) -> str:
    """French and English CLDR texts use several kinds of no-break space."""
    return " ".join(text.split())


def _relative(seconds: int, unit: str, code: str) -> str:
    """CLDR's "in 5 hours" or "5 hours ago", in this unit even where a larger one would fit."""
    delta = datetime.timedelta(seconds=seconds)
    return format_timedelta(delta, granularity=unit, threshold=1e9, add_direction=True, locale=code)


def _full_date(code: str) -> str:
    full, long = (format_date(_SAMPLE_DATE, style, code) for style in ("full", "long"))
    weekday = Locale(code).days["format"]["wide"][_SAMPLE_DATE.weekday()]
    return full.replace(long, "{}").replace(weekday, "{}")


def _names(english: dict[str, str], other: dict[str, str]) -> tuple[Pair, ...]:
    """Names of two-letter codes that are words only, without brackets and abbreviations, sorted by code."""
    pairs = (
        (_plain(english[code]), _plain(other[code]))
        for code in sorted(english)
        if len(code) == 2 and code.isalpha() and code in other and code not in _NOT_TERRITORIES
    )
    return tuple(pair for pair in pairs if not re.search(r"[&().,]| - ", " ".join(pair)))
