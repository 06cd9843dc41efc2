"""The phrases data set: exact translations, uniform lengths, disjoint splits, equal on all machines."""

from __future__ import annotations

import datetime
import os
import random
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from babel import Locale
from num2words import num2words

from harness.datasets.dataset import DATASETS
from harness.datasets.phrases.generator import SentenceGenerator
from harness.datasets.phrases.lexicon import build_lexicon
from harness.datasets.phrases.phrases import Phrases, PhrasesOptions
from harness.datasets.sentence_pairs import split_of

LANGUAGES = ("de", "fr")
SPLITS = ("train", "validation", "test")


def opened(split: str = "train", **options: object) -> Phrases:
    return Phrases(PhrasesOptions(**options), split, "translation")


def clauses(language: str, kind: str, count: int = 400) -> list[tuple[str, str]]:
    rng = random.Random(1)
    return [GENERATORS[language].clauses[kind](rng) for _ in range(count)]


GENERATORS = {language: SentenceGenerator(language) for language in LANGUAGES}
NUMBERS = {num2words(number, lang="en"): number for number in range(2, 100)}
SUBJECTS = ("I", "he", "she", "we", "they")


@pytest.mark.parametrize(
    ("language", "field", "english", "expected"),
    [
        ("de", "cardinals", "twenty-one", "einundzwanzig"),
        ("fr", "cardinals", "ninety-one", "quatre-vingt-onze"),
        ("fr", "cardinals", "eighty", "quatre-vingts"),
        ("de", "ordinals", "third", "dritte"),
        ("fr", "ordinals", "twenty-first", "vingt et unième"),
        ("de", "units", "{} miles", "{} Meilen"),
        ("de", "units", "{} kilometers per hour", "{} Kilometer pro Stunde"),
        ("fr", "units", "{} square meters", "{} mètres carrés"),
        ("de", "currencies", "Swiss francs", "Schweizer Franken"),
        ("fr", "currencies", "Swiss francs", "francs suisses"),
        ("de", "ago", "{} days ago", "vor {} Tagen"),
        ("fr", "ago", "{} days ago", "il y a {} jours"),
        ("de", "ahead", "in {} weeks", "in {} Wochen"),
        ("fr", "ahead", "in {} weeks", "dans {} semaines"),
        ("de", "dates", "March 3, {}", "3. März {}"),
        ("fr", "dates", "February 29, {}", "29 février {}"),
        ("de", "weekdays", "Wednesday", "Mittwoch"),
        ("fr", "months", "August", "août"),
        ("de", "languages", "Greek", "Griechisch"),
        ("fr", "territories", "Germany", "Allemagne"),
    ],
)
def test_words_and_patterns_of_the_lexicon(language, field, english, expected):
    assert dict(getattr(build_lexicon(language), field))[english] == expected


def test_numbers_that_agree_in_gender_are_excluded_in_french_only():
    assert "twenty-one" not in dict(build_lexicon("fr").cardinals)
    assert "twenty-one" in dict(build_lexicon("de").cardinals)
    assert "one" not in dict(build_lexicon("de").cardinals)


@pytest.mark.parametrize("language", LANGUAGES)
def test_patterns_have_one_number_in_both_languages(language):
    lexicon = build_lexicon(language)
    for pair in (*lexicon.units, *lexicon.ago, *lexicon.ahead, *lexicon.dates, lexicon.below_zero):
        assert [text.count("{}") for text in pair] == [1, 1]
    assert [text.count("{}") for text in lexicon.full_date] == [2, 2]
    assert len(lexicon.dates) == 366 and len(lexicon.ago) == len(lexicon.ahead) == 4


def expected_statement(language: str, kind: str, subject: str, number: str, unit: str, name: str) -> str:
    """Translate 'she spoke Greek three days ago' or 'she will speak Greek in three days' by other rules."""
    person = SUBJECTS.index(subject)
    spelt = num2words(NUMBERS[number], lang=language)
    other = Locale(language).languages
    code = next(
        code for code, english in Locale("en").languages.items() if english == name and len(code) == 2
    )
    units = {
        "de": {"minutes": "Minuten", "hours": "Stunden", "days": "Tagen", "weeks": "Wochen"},
        "fr": {"minutes": "minutes", "hours": "heures", "days": "jours", "weeks": "semaines"},
    }[language]
    if language == "de":
        pronoun = ("ich", "er", "sie", "wir", "sie")[person]
        if kind == "spoke":
            verb = "sprachen" if person > 2 else "sprach"
            return f"vor {spelt} {units[unit]} {verb} {pronoun} {other[code]}"
        verb = ("werde", "wird", "wird", "werden", "werden")[person]
        return f"in {spelt} {units[unit]} {verb} {pronoun} {other[code]} sprechen"
    pronoun = ("je", "il", "elle", "nous", "ils")[person]
    if kind == "spoke":
        verb = ("parlais", "parlait", "parlait", "parlions", "parlaient")[person]
        return f"il y a {spelt} {units[unit]}, {pronoun} {verb} {other[code]}"
    verb = ("parlerai", "parlera", "parlera", "parlerons", "parleront")[person]
    return f"dans {spelt} {units[unit]}, {pronoun} {verb} {other[code]}"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("kind", "english"),
    [
        ("spoke", r"(\w+) spoke (.+) (\S+) (minutes|hours|days|weeks) ago"),
        ("will_speak", r"(\w+) will speak (.+) in (\S+) (minutes|hours|days|weeks)"),
    ],
)
def test_statements_have_the_word_order_of_each_language(language, kind, english):
    for source, translation in clauses(language, kind):
        match = re.fullmatch(english, source)
        assert match, source
        subject, name, number, unit = match.groups()
        assert translation == expected_statement(language, kind, subject, number, unit, name)


def test_statements_about_paying_and_needing():
    """Check the German of 'she pays forty euros on Monday' and 'we need two hours for forty euros'."""
    verbs = {"zahlen": ("zahle", "zahlt", "zahlt", "zahlen", "zahlen")}
    verbs["brauchen"] = ("brauche", "braucht", "braucht", "brauchen", "brauchen")
    pronouns = ("ich", "er", "sie", "wir", "sie")
    lexicon = build_lexicon("de")
    units, days, currencies = dict(lexicon.units), dict(lexicon.weekdays), dict(lexicon.currencies)
    for source, translation in clauses("de", "pay"):
        subject, number, currency, day = re.fullmatch(r"(\w+) pays? (\S+) (.+) on (\w+)", source).groups()
        person = SUBJECTS.index(subject)
        money = f"{num2words(NUMBERS[number], lang='de')} {currencies[currency]}"
        assert translation == f"am {days[day]} {verbs['zahlen'][person]} {pronouns[person]} {money}"
    for source, translation in clauses("de", "need"):
        subject, number, unit, price = re.fullmatch(r"(\w+) needs? (\S+) (.+) for (.+)", source).groups()
        person = SUBJECTS.index(subject)
        quantity = units[f"{{}} {unit}"].format(num2words(NUMBERS[number], lang="de"))
        end = f"{verbs['brauchen'][person]} {pronouns[person]} {quantity}"
        assert translation.startswith("für ") and translation.endswith(end), (source, translation)
        assert price.split()[0] in NUMBERS


@pytest.mark.parametrize("language", LANGUAGES)
def test_dates_agree_and_fall_on_their_weekday(language):
    months = {name: number for number, name in Locale("en").months["format"]["wide"].items()}
    other = Locale(language)
    english = r"(?:on )?(?:(?P<weekday>\w+), )?(?P<month>\w+) (?P<day>\d+), (?P<year>\d{4})"
    for source, translation in clauses(language, "date"):
        match = re.fullmatch(english, source)
        assert match, source
        month = other.months["format"]["wide"][months[match["month"]]]
        stop = "." if language == "de" else ""
        expected = f"{match['day']}{stop} {month} {match['year']}"
        if match["weekday"]:
            day = datetime.date(int(match["year"]), months[match["month"]], int(match["day"]))
            assert Locale("en").days["format"]["wide"][day.weekday()] == match["weekday"]
            expected = f"{other.days['format']['wide'][day.weekday()]}{',' * (language == 'de')} {expected}"
        if source.startswith("on "):
            expected = f"{'am' if language == 'de' else 'le'} {expected}"
        assert translation == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_times_of_day_are_equal_in_both_languages(language):
    for source, translation in clauses(language, "time"):
        hour, minute, half = re.fullmatch(r"at (\d+):(\d\d) ([AP]M)", source).groups()
        hour = int(hour) % 12 + 12 * (half == "PM")
        expected = f"um {hour:02}:{minute} Uhr" if language == "de" else f"à {hour:02}:{minute}"
        assert translation == expected


def test_enumerations_have_the_conjunction_and_commas_of_german():
    german = dict(build_lexicon("de").territories)
    for source, translation in clauses("de", "territories"):
        names = re.split(r", and |, or |, | and | or ", source)
        if "".join(names).count("and ") or any(name not in german for name in names):
            continue  # a name that contains "and", such as Trinidad and Tobago
        conjunction = " oder " if re.search(r"\bor\b", source) else " und "
        *first, last = (german[name] for name in names)
        assert translation == ", ".join(first) + conjunction + last


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_have_exactly_the_requested_length_and_lengths_are_uniform(language):
    dataset = opened(language=language, min_tokens=3, max_tokens=50)
    lengths = [len(dataset[index].input.split()) for index in range(2000)]
    counts = [lengths.count(length) for length in range(3, 51)]
    assert sum(counts) == 2000
    chi_square = sum((count - 2000 / 48) ** 2 / (2000 / 48) for count in counts)
    assert chi_square < 82.7  # 47 degrees of freedom: the 99.9% point is 82.72
    assert {len(opened(min_tokens=9, max_tokens=9)[index].input.split()) for index in range(50)} == {9}


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_is_normalised_and_the_vocabulary_is_of_moderate_size(language):
    dataset = opened(language=language)
    samples = [dataset[index] for index in range(1500)]
    for sample in samples:
        for text in (sample.input, *sample.target):
            assert text == " ".join(text.split()) and "{" not in text
    for texts in ([s.input for s in samples], [s.target[0] for s in samples]):
        assert 500 < len({token for text in texts for token in re.findall(r"[\w'’:-]+|[^\w\s]", text)}) < 1500


def test_a_source_is_in_one_split_only():
    for split in SPLITS:
        dataset = opened(split, seed=3, min_tokens=3, max_tokens=6)
        assert {split_of(dataset[index].input) for index in range(200)} == {split}
    shares = [split_of(str(number)) for number in range(4000)]
    assert [shares.count(split) / 4000 for split in SPLITS] == pytest.approx([0.9, 0.05, 0.05], abs=0.02)


def test_a_sentence_depends_on_options_split_and_index_only():
    dataset = opened(size=40)
    again = opened(size=4000)
    for index in (30, 2, 39):
        assert (again[index].input, again[index].target) == (dataset[index].input, dataset[index].target)
    assert opened(seed=1)[0].input != dataset[0].input != opened("test")[0].input


def test_another_process_generates_the_same_sentences():
    program = (
        "from harness.datasets.phrases.phrases import Phrases, PhrasesOptions;"
        "d = Phrases(PhrasesOptions(language='fr'), 'test', 'translation'); print(d.fingerprint, d[17])"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "5", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    dataset = opened("test", language="fr")
    assert process.stdout.strip() == f"{dataset.fingerprint} {dataset[17]}"


def test_the_fingerprint_depends_on_options_and_split():
    different = [
        opened().fingerprint,
        opened("test").fingerprint,
        opened(language="fr").fingerprint,
        opened(seed=1).fingerprint,
        opened(size=7).fingerprint,
        opened(max_tokens=49).fingerprint,
        opened(min_tokens=4).fingerprint,
    ]
    assert len(set(different)) == len(different)
    assert opened(size=40_000).fingerprint == opened().fingerprint  # the default size


def test_ids_and_index_range():
    dataset = opened("validation")
    assert len(dataset) == 500 and dataset[12].id == "validation-0000012"
    ids = [dataset[index].id for index in range(20)]
    assert all(first < second for first, second in pairwise(ids))
    for index in (-1, 500):
        with pytest.raises(IndexError):
            dataset[index]
    assert DATASETS.get("phrases") is Phrases


@pytest.mark.parametrize(
    "options", [{"min_tokens": 2}, {"min_tokens": 9, "max_tokens": 8}, {"language": "it"}]
)
def test_impossible_options_are_rejected(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PhrasesOptions(**options)
