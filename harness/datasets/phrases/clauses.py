"""Clauses of the `phrases` corpus: an English text and its exact translation, made from the same values."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, TypeVar

from babel.lists import format_list

from harness.datasets.phrases.lexicon import Language, Lexicon, Pair, lexicon

T = TypeVar("T")

_FIRST_DAY, _DAYS = datetime.date(1950, 1, 1).toordinal(), 36_525  # a hundred years
_LIST_LENGTHS = (2, 3, 4)
_PERSONS = ("I", "he", "she", "we", "they")
_NOUNS = ("day", "week", "month", "year", "century", "hour", "minute")


class Frames(NamedTuple):
    """How one language puts a clause together; columns by person: I, he, she, we, they."""

    joints: tuple[str, ...]  # between clauses; none changes the word order of what follows
    at: str
    on_date: str
    on_weekday: str
    ordinals: tuple[str, ...]  # the fifth day, week, month, year, century, hour, minute
    spoke: tuple[str, ...]  # {when} {language}
    will_speak: tuple[str, ...]
    pay: tuple[str, ...]  # {when} {what}
    need: tuple[str, ...]  # {what} {aim}


FRAMES: dict[str, Frames] = {
    "en": Frames(
        joints=("; ", " and ", " or ", ", but "),
        at="at {}",
        on_date="on {}",
        on_weekday="on {}",
        ordinals=tuple(f"the {{}} {noun}" for noun in _NOUNS),
        spoke=tuple(f"{who} spoke {{language}} {{when}}" for who in _PERSONS),
        will_speak=tuple(f"{who} will speak {{language}} {{when}}" for who in _PERSONS),
        pay=tuple(
            f"{who} {{what}} {{when}}" for who in ("I pay", "he pays", "she pays", "we pay", "they pay")
        ),
        need=tuple(
            f"{who} {{what}} for {{aim}}"
            for who in ("I need", "he needs", "she needs", "we need", "they need")
        ),
    ),
    "de": Frames(
        joints=("; ", " und ", " oder ", ", aber "),
        at="um {} Uhr",
        on_date="am {}",
        on_weekday="am {}",
        ordinals=(
            "der {} Tag",
            "die {} Woche",
            "der {} Monat",
            "das {} Jahr",
            "das {} Jahrhundert",
            "die {} Stunde",
            "die {} Minute",
        ),
        spoke=tuple(
            f"{{when}} {who} {{language}}"
            for who in ("sprach ich", "sprach er", "sprach sie", "sprachen wir", "sprachen sie")
        ),
        will_speak=tuple(
            f"{{when}} {who} {{language}} sprechen"
            for who in ("werde ich", "wird er", "wird sie", "werden wir", "werden sie")
        ),
        pay=tuple(
            f"{{when}} {who} {{what}}"
            for who in ("zahle ich", "zahlt er", "zahlt sie", "zahlen wir", "zahlen sie")
        ),
        need=tuple(
            f"für {{aim}} {who} {{what}}"
            for who in ("brauche ich", "braucht er", "braucht sie", "brauchen wir", "brauchen sie")
        ),
    ),
    "fr": Frames(
        joints=(" ; ", " et ", " ou ", ", mais "),
        at="à {}",
        on_date="le {}",
        on_weekday="{}",
        ordinals=(
            "le {} jour",
            "la {} semaine",
            "le {} mois",
            "la {} année",
            "le {} siècle",
            "la {} heure",
            "la {} minute",
        ),
        spoke=tuple(
            f"{{when}}, {who} {{language}}"
            for who in ("je parlais", "il parlait", "elle parlait", "nous parlions", "ils parlaient")
        ),
        will_speak=tuple(
            f"{{when}}, {who} {{language}}"
            for who in ("je parlerai", "il parlera", "elle parlera", "nous parlerons", "ils parleront")
        ),
        pay=tuple(
            f"{{when}}, {who} {{what}}"
            for who in ("je paie", "il paie", "elle paie", "nous payons", "ils paient")
        ),
        need=tuple(
            f"pour {{aim}}, {who} besoin de {{what}}"
            for who in ("j’ai", "il a", "elle a", "nous avons", "ils ont")
        ),
    ),
}


class Writer:
    """Draws clauses and sentences; only `random()` is used, which is the same in every version of Python."""

    def __init__(self, language: Language) -> None:
        self.words: Lexicon = lexicon(language)
        self.language = language
        self.english, self.other = FRAMES["en"], FRAMES[language]
        joints = zip(self.english.joints, self.other.joints, strict=True)
        # With the tokens each adds to the English; the first, which adds none, can join a last lone word.
        self.joints = tuple((joint, len(f"a{joint[0]}b".split()) - 2) for joint in joints)

        self.lone_words = self.words.weekdays + self.words.months
        self.temperatures = [unit for unit in self.words.units if "degrees" in unit[0]]

    def sentence(self, rng: random.Random, tokens: int) -> Pair:
        """A sentence whose English has so many tokens between spaces (at least 1)."""
        one = other = ""
        left = tokens
        while left:
            joint, cost = _pick(rng, self.joints if left > 1 else self.joints[:1]) if one else (("", ""), 0)
            clause = _pick(rng, _CLAUSES)(self, rng) if left > 1 else _pick(rng, self.lone_words)
            length = cost + len(clause[0].split())
            if length <= left:
                one, other = one + joint[0] + clause[0], other + joint[1] + clause[1]
                left -= length
        return one, other

    def _both(self, frame: str, *slots: Pair, at: int | None = None, **named: Pair) -> Pair:
        """Fill the frame of each language with that language's half of the pairs."""
        one, other = getattr(self.english, frame), getattr(self.other, frame)
        if at is not None:
            one, other = one[at], other[at]
        return (
            one.format(*(slot[0] for slot in slots), **{name: slot[0] for name, slot in named.items()}),
            other.format(*(slot[1] for slot in slots), **{name: slot[1] for name, slot in named.items()}),
        )

    def _person(self, rng: random.Random) -> int:
        return int(rng.random() * len(self.english.spoke))

    def quantity(self, rng: random.Random) -> Pair:
        return _fill(_pick(rng, self.words.units), _pick(rng, self.words.cardinals))

    def below_zero(self, rng: random.Random) -> Pair:
        return _fill(
            _pick(rng, self.temperatures), _fill(self.words.below_zero, _pick(rng, self.words.cardinals))
        )

    def amount(self, rng: random.Random) -> Pair:
        return _fill(("{} {}", "{} {}"), _pick(rng, self.words.cardinals), _pick(rng, self.words.currencies))

    def ago(self, rng: random.Random) -> Pair:
        return _fill(_pick(rng, self.words.ago), _pick(rng, self.words.cardinals))

    def ahead(self, rng: random.Random) -> Pair:
        return _fill(_pick(rng, self.words.ahead), _pick(rng, self.words.cardinals))

    def date(self, rng: random.Random) -> Pair:
        day = datetime.date.fromordinal(_FIRST_DAY + int(rng.random() * _DAYS))
        in_leap_year = day.replace(year=2024).timetuple().tm_yday - 1
        year = str(day.year)
        date = _fill(self.words.dates[in_leap_year], (year, year))
        if rng.random() < 0.5:
            date = _fill(self.words.full_date, self.words.weekdays[day.weekday()], date)
        return self._both("on_date", date) if rng.random() < 0.5 else date

    def time(self, rng: random.Random) -> Pair:
        return self._both("at", _pick(rng, self.words.times))

    def territories(self, rng: random.Random) -> Pair:
        return self._list(rng, self.words.territories)

    def languages(self, rng: random.Random) -> Pair:
        return self._list(rng, self.words.languages)

    def _list(self, rng: random.Random, names: Sequence[Pair]) -> Pair:
        chosen = [_pick(rng, names) for _ in range(_pick(rng, _LIST_LENGTHS))]
        style = "standard" if rng.random() < 0.6 else "or"
        one, other = (_list_pattern(len(chosen), style, code) for code in ("en", self.language))
        return one.format(*(name[0] for name in chosen)), other.format(*(name[1] for name in chosen))

    def ordinal(self, rng: random.Random) -> Pair:
        noun = int(rng.random() * len(self.english.ordinals))
        return self._both("ordinals", _pick(rng, self.words.ordinals), at=noun)

    def spoke(self, rng: random.Random) -> Pair:
        language = _pick(rng, self.words.languages)
        return self._both("spoke", at=self._person(rng), when=self.ago(rng), language=language)

    def will_speak(self, rng: random.Random) -> Pair:
        language = _pick(rng, self.words.languages)
        return self._both("will_speak", at=self._person(rng), when=self.ahead(rng), language=language)

    def pay(self, rng: random.Random) -> Pair:
        day = self._both("on_weekday", _pick(rng, self.words.weekdays))
        return self._both("pay", at=self._person(rng), when=day, what=self.amount(rng))

    def need(self, rng: random.Random) -> Pair:
        return self._both("need", at=self._person(rng), what=self.quantity(rng), aim=self.amount(rng))


_CLAUSES: tuple[Callable[[Writer, random.Random], Pair], ...] = (
    Writer.quantity,
    Writer.quantity,
    Writer.below_zero,
    Writer.amount,
    Writer.ago,
    Writer.ahead,
    Writer.date,
    Writer.date,
    Writer.time,
    Writer.territories,
    Writer.languages,
    Writer.ordinal,
    Writer.spoke,
    Writer.will_speak,
    Writer.pay,
    Writer.need,
)


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def _fill(pattern: Pair, *slots: Pair) -> Pair:
    one, other = zip(*slots, strict=True)
    return pattern[0].format(*one), pattern[1].format(*other)


@cache
def _list_pattern(length: int, style: str, code: str) -> str:
    """CLDR's enumeration with `{}` for every member."""
    return format_list(["{}"] * length, style=style, locale=code)
