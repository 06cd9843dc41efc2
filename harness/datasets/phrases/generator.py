"""Random clauses and sentences of the `phrases` corpus: an English text and its exact translation.

Both are filled with the same values. Only `random()` is used, because it is the same in all versions of
Python.
"""

import datetime
import random
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TypeAlias, TypeVar

import yaml
from babel.lists import format_list

from harness.datasets.phrases.lexicon import Language, TextPair, build_lexicon

T = TypeVar("T")
Draw: TypeAlias = Callable[[random.Random], TextPair]
"""Draws a clause."""

_FIRST_DAY, _DAYS = datetime.date(1950, 1, 1).toordinal(), 36_525  # a hundred years
_LIST_LENGTHS = (2, 3, 4)
_FREQUENCIES = {"quantity": 2, "date": 2}  # relative to the other clauses


class SentenceGenerator:
    """Sentences in English and one other language. `clauses` draws each kind of clause, by name."""

    def __init__(self, language: Language) -> None:
        self.language = language
        self.lexicon = words = build_lexicon(language)
        self._templates = templates = read_templates(language)
        temperatures = [unit for unit in words.units if "degrees" in unit[0]]
        ago = partial(_fill_random, words.ago, words.cardinals)
        ahead = partial(_fill_random, words.ahead, words.cardinals)
        self.clauses: dict[str, Draw] = {
            "quantity": partial(_fill_random, words.units, words.cardinals),
            "below_zero": lambda rng: _fill(
                _pick(rng, temperatures), _fill(words.below_zero, _pick(rng, words.cardinals))
            ),
            "amount": self._amount,
            "ago": ago,
            "ahead": ahead,
            "date": self._date,
            "time": lambda rng: _fill(templates["at"][0], _pick(rng, words.times)),
            "territories": partial(self._enumeration, words.territories),
            "languages": partial(self._enumeration, words.languages),
            "ordinal": partial(_fill_random, templates["ordinals"], words.ordinals),
            "spoke": partial(self._speak, templates["spoke"], ago),
            "will_speak": partial(self._speak, templates["will_speak"], ahead),
            "pay": self._pay_on_weekday,
            "need": lambda rng: _fill(
                _pick(rng, templates["need"]), what=self.clauses["quantity"](rng), aim=self._amount(rng)
            ),
        }
        self._drawn = [draw for name, draw in self.clauses.items() for _ in range(_FREQUENCIES.get(name, 1))]
        # Each connective has the number of tokens that it adds to the English text. The first adds none, so
        # it can connect a single word at the end.
        connectives = templates["connectives"]
        self._connectives = [(pair, len(f"a{pair[0]}b".split()) - 2) for pair in connectives]
        self._single_words = words.weekdays + words.months

    def sentence(self, rng: random.Random, tokens: int) -> TextPair:
        """Draw a sentence whose English text has the given number of tokens between spaces (at least 1)."""
        english = translation = ""
        remaining = tokens
        while remaining:
            connective, added = ("", ""), 0
            if english:
                connective, added = _pick(rng, self._connectives if remaining > 1 else self._connectives[:1])
            clause = _pick(rng, self._drawn)(rng) if remaining > 1 else _pick(rng, self._single_words)
            length = added + len(clause[0].split())
            if length <= remaining:
                english += connective[0] + clause[0]
                translation += connective[1] + clause[1]
                remaining -= length
        return english, translation

    def _amount(self, rng: random.Random) -> TextPair:
        number = _pick(rng, self.lexicon.cardinals)
        return _fill(("{} {}", "{} {}"), number, _pick(rng, self.lexicon.currencies))

    def _date(self, rng: random.Random) -> TextPair:
        """Draw a date, with or without weekday and preposition."""
        day = datetime.date.fromordinal(_FIRST_DAY + int(rng.random() * _DAYS))
        index = day.replace(year=2024).timetuple().tm_yday - 1  # in a leap year
        year = str(day.year)
        date = _fill(self.lexicon.dates[index], (year, year))
        if rng.random() < 0.5:
            date = _fill(self.lexicon.full_date, self.lexicon.weekdays[day.weekday()], date)
        return _fill(self._templates["on_date"][0], date) if rng.random() < 0.5 else date

    def _speak(self, statements: Sequence[TextPair], when: Draw, rng: random.Random) -> TextPair:
        language = _pick(rng, self.lexicon.languages)
        return _fill(_pick(rng, statements), when=when(rng), language=language)

    def _pay_on_weekday(self, rng: random.Random) -> TextPair:
        day = _fill(self._templates["on_weekday"][0], _pick(rng, self.lexicon.weekdays))
        return _fill(_pick(rng, self._templates["pay"]), when=day, what=self._amount(rng))

    def _enumeration(self, names: Sequence[TextPair], rng: random.Random) -> TextPair:
        members = [_pick(rng, names) for _ in range(_pick(rng, _LIST_LENGTHS))]
        style = "standard" if rng.random() < 0.6 else "or"
        english, other = (_list_pattern(len(members), style, code) for code in ("en", self.language))
        return _fill((english, other), *members)


def _pick(rng: random.Random, choices: Sequence[T]) -> T:
    return choices[int(rng.random() * len(choices))]


def read_templates(language: Language) -> dict[str, tuple[TextPair, ...]]:
    """Return the templates of clauses in English and another language, by name."""
    text = Path(__file__).with_name("templates.yaml").read_text(encoding="utf-8")
    english, other = (yaml.safe_load(text)[code] for code in ("en", language))
    return {name: tuple(zip(english[name], other[name], strict=True)) for name in english}


def _fill_random(templates: Sequence[TextPair], values: Sequence[TextPair], rng: random.Random) -> TextPair:
    return _fill(_pick(rng, templates), _pick(rng, values))


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
