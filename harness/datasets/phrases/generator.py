"""Random clauses and sentences of the `phrases` corpus: an English text and its exact translation.

Both are filled with the same values. Only `random()` is used, because it is the same in all versions of
Python.
"""

import datetime
import random
from collections.abc import Callable, Sequence
from functools import cache
from typing import TypeVar

from babel.lists import format_list

from harness.datasets.phrases.lexicon import Language, TextPair, build_lexicon
from harness.datasets.phrases.templates import TEMPLATES

T = TypeVar("T")

_FIRST_DAY, _DAYS = datetime.date(1950, 1, 1).toordinal(), 36_525  # a hundred years
_LIST_LENGTHS = (2, 3, 4)


class SentenceGenerator:
    """Sentences in English and one other language."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.lexicon = build_lexicon(language)
        english, other = TEMPLATES["en"], TEMPLATES[language]
        self._at = english.at, other.at
        self._on_date = english.on_date, other.on_date
        self._on_weekday = english.on_weekday, other.on_weekday
        self._ordinals = _pairs(english.ordinals, other.ordinals)
        self._spoke = _pairs(english.spoke, other.spoke)
        self._will_speak = _pairs(english.will_speak, other.will_speak)
        self._pay = _pairs(english.pay, other.pay)
        self._need = _pairs(english.need, other.need)
        # Each connective has the number of tokens that it adds to the English text. The first adds none, so
        # it can connect a single word at the end.
        connectives = _pairs(english.connectives, other.connectives)
        self._connectives = [(pair, len(f"a{pair[0]}b".split()) - 2) for pair in connectives]
        self._single_words = self.lexicon.weekdays + self.lexicon.months
        self._temperatures = [unit for unit in self.lexicon.units if "degrees" in unit[0]]

    def sentence(self, rng: random.Random, tokens: int) -> TextPair:
        """Draw a sentence whose English text has the given number of tokens between spaces (at least 1)."""
        english = translation = ""
        remaining = tokens
        while remaining:
            connective, added = ("", ""), 0
            if english:
                connective, added = _pick(rng, self._connectives if remaining > 1 else self._connectives[:1])
            clause = _pick(rng, _CLAUSES)(self, rng) if remaining > 1 else _pick(rng, self._single_words)
            length = added + len(clause[0].split())
            if length <= remaining:
                english += connective[0] + clause[0]
                translation += connective[1] + clause[1]
                remaining -= length
        return english, translation

    def quantity(self, rng: random.Random) -> TextPair:
        """Draw a number with a unit of measurement."""
        return _fill(_pick(rng, self.lexicon.units), _pick(rng, self.lexicon.cardinals))

    def below_zero(self, rng: random.Random) -> TextPair:
        """Draw a negative temperature."""
        unit = _pick(rng, self._temperatures)
        return _fill(unit, _fill(self.lexicon.below_zero, _pick(rng, self.lexicon.cardinals)))

    def amount(self, rng: random.Random) -> TextPair:
        """Draw a number with a currency."""
        number = _pick(rng, self.lexicon.cardinals)
        return _fill(("{} {}", "{} {}"), number, _pick(rng, self.lexicon.currencies))

    def ago(self, rng: random.Random) -> TextPair:
        """Draw a time adverbial of the past: three days ago."""
        return _fill(_pick(rng, self.lexicon.ago), _pick(rng, self.lexicon.cardinals))

    def ahead(self, rng: random.Random) -> TextPair:
        """Draw a time adverbial of the future: in three days."""
        return _fill(_pick(rng, self.lexicon.ahead), _pick(rng, self.lexicon.cardinals))

    def date(self, rng: random.Random) -> TextPair:
        """Draw a date, with or without weekday and preposition."""
        day = datetime.date.fromordinal(_FIRST_DAY + int(rng.random() * _DAYS))
        index = day.replace(year=2024).timetuple().tm_yday - 1  # in a leap year
        year = str(day.year)
        date = _fill(self.lexicon.dates[index], (year, year))
        if rng.random() < 0.5:
            date = _fill(self.lexicon.full_date, self.lexicon.weekdays[day.weekday()], date)
        return _fill(self._on_date, date) if rng.random() < 0.5 else date

    def time(self, rng: random.Random) -> TextPair:
        """Draw a time of day."""
        return _fill(self._at, _pick(rng, self.lexicon.times))

    def territories(self, rng: random.Random) -> TextPair:
        """Draw an enumeration of territories."""
        return self._enumeration(rng, self.lexicon.territories)

    def languages(self, rng: random.Random) -> TextPair:
        """Draw an enumeration of languages."""
        return self._enumeration(rng, self.lexicon.languages)

    def ordinal(self, rng: random.Random) -> TextPair:
        """Draw a noun phrase with an ordinal number: the fifth day."""
        return _fill(_pick(rng, self._ordinals), _pick(rng, self.lexicon.ordinals))

    def spoke(self, rng: random.Random) -> TextPair:
        """Draw a statement in the past: she spoke Greek three days ago."""
        language = _pick(rng, self.lexicon.languages)
        return _fill(_pick(rng, self._spoke), when=self.ago(rng), language=language)

    def will_speak(self, rng: random.Random) -> TextPair:
        """Draw a statement in the future: she will speak Greek in three days."""
        language = _pick(rng, self.lexicon.languages)
        return _fill(_pick(rng, self._will_speak), when=self.ahead(rng), language=language)

    def pay(self, rng: random.Random) -> TextPair:
        """Draw a statement with a direct object and a time: she pays forty euros on Monday."""
        day = _fill(self._on_weekday, _pick(rng, self.lexicon.weekdays))
        return _fill(_pick(rng, self._pay), when=day, what=self.amount(rng))

    def need(self, rng: random.Random) -> TextPair:
        """Draw a statement with a direct object and a purpose: we need two hours for forty euros."""
        return _fill(_pick(rng, self._need), what=self.quantity(rng), aim=self.amount(rng))

    def _enumeration(self, rng: random.Random, names: Sequence[TextPair]) -> TextPair:
        members = [_pick(rng, names) for _ in range(_pick(rng, _LIST_LENGTHS))]
        style = "standard" if rng.random() < 0.6 else "or"
        english, other = (_list_pattern(len(members), style, code) for code in ("en", self.language))
        return _fill((english, other), *members)


_CLAUSES: tuple[Callable[[SentenceGenerator, random.Random], TextPair], ...] = (
    SentenceGenerator.quantity,
    SentenceGenerator.quantity,
    SentenceGenerator.below_zero,
    SentenceGenerator.amount,
    SentenceGenerator.ago,
    SentenceGenerator.ahead,
    SentenceGenerator.date,
    SentenceGenerator.date,
    SentenceGenerator.time,
    SentenceGenerator.territories,
    SentenceGenerator.languages,
    SentenceGenerator.ordinal,
    SentenceGenerator.spoke,
    SentenceGenerator.will_speak,
    SentenceGenerator.pay,
    SentenceGenerator.need,
)
"""Clauses to draw from. Two are listed twice to be drawn twice as often."""


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def _pairs(english: Sequence[str], other: Sequence[str]) -> tuple[TextPair, ...]:
    return tuple(zip(english, other, strict=True))


def _fill(template: TextPair, *slots: TextPair, **named_slots: TextPair) -> TextPair:
    """Fill the template of each language with that language's texts."""
    english, other = (
        template[side].format(
            *[slot[side] for slot in slots], **{name: slot[side] for name, slot in named_slots.items()}
        )
        for side in (0, 1)
    )
    return english, other


@cache
def _list_pattern(length: int, style: str, code: str) -> str:
    """Return CLDR's enumeration with `{}` for each member."""
    pattern: str = format_list(["{}"] * length, style=style, locale=code)
    return pattern
