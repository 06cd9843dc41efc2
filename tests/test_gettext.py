"""The gettext data set, on catalogues that the tests write byte by byte."""

from __future__ import annotations

import logging
import struct
from pathlib import Path

import pytest

from harness.datasets.dataset import DATASETS
from harness.datasets.gettext import Gettext, GettextOptions, clean, read_catalogues
from harness.datasets.sentence_pairs import split_of_source
from harness.errors import UnavailableError

SPLITS = ("train", "validation", "test")


def catalogue(entries: dict[str, str], declared: str = "UTF-8", encoding: str | None = None) -> bytes:
    """Encode a little-endian `*.mo` (GNU gettext manual §10.3): counts, lengths and offsets, texts."""
    header = f"Content-Type: text/plain; charset={declared}\nPlural-Forms: nplurals=2; plural=n!=1;\n"
    pairs = sorted({"": header, **entries}.items())
    columns = [[text.encode(encoding or declared) for text in column] for column in zip(*pairs, strict=True)]
    count = len(pairs)
    offset = 28 + 2 * 8 * count
    tables, strings = b"", b""
    for text in (*columns[0], *columns[1]):
        tables += struct.pack("<2I", len(text), offset + len(strings))
        strings += text + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 0) + tables + strings


def install(directory: Path, name: str, content: bytes, language: str = "de") -> None:
    folder = directory / language / "LC_MESSAGES"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.mo").write_bytes(content)


def opened(directory: Path, split: str = "train", **options: object) -> Gettext:
    return Gettext(GettextOptions(directory=directory, **options), split, "translation")


def all_pairs(directory: Path, **options: object) -> dict[str, tuple[str, ...]]:
    """Return source → references over all splits."""
    pairs = {}
    for split in SPLITS:
        try:
            dataset = opened(directory, split, **options)
        except UnavailableError:
            continue
        pairs |= {sample.input: sample.target for sample in dataset}
    return pairs


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Create a catalogue of 600 pairs."""
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    entries = {f"the {a} {b} {c}": f"das {c} {b} {a}" for a in words for b in words for c in words[:6]}
    install(tmp_path, "many", catalogue(entries))
    return tmp_path


def test_catalogues_are_decoded_by_their_header(tmp_path):
    install(tmp_path, "latin", catalogue({"size": "Größe"}, "ISO-8859-1"))
    install(tmp_path, "unicode", catalogue({"door": "Tür"}))
    assert all_pairs(tmp_path) == {"size": ("Größe",), "door": ("Tür",)}


def test_unreadable_catalogues_are_skipped_and_named_for_the_doctor(tmp_path, caplog):
    whole = catalogue({"door": "Tür", "window": "Fenster"})
    install(tmp_path, "good", whole)
    install(tmp_path, "lying", catalogue({"size": "Größe"}, "UTF-8", "ISO-8859-1"))
    install(tmp_path, "truncated", whole[:60])
    install(tmp_path, "unknown", catalogue({"size": "Größe"}, "no-such-code", "UTF-8"))
    install(tmp_path, "other", b"not a catalogue")
    with caplog.at_level(logging.WARNING):
        assert all_pairs(tmp_path) == {"door": ("Tür",), "window": ("Fenster",)}
    assert caplog.records == []  # a defect of the machine: `harness doctor` names it, not every command
    _, (finding,) = read_catalogues((tmp_path,), "de")
    assert finding.startswith("4 of 5 catalogues for 'de' cannot be read: ")
    assert all(f"{name}.mo" in finding for name in ("lying", "truncated", "unknown", "other"))


def test_contexts_become_alternatives_and_plurals_become_their_singular(tmp_path):
    entries = {
        "menu\x04Open": "Öffnen",
        "state\x04Open": "Offen",
        "one file\0several files": "eine Datei\0mehrere Dateien",
        "noun\x04a key\0some keys": "ein Schlüssel\0einige Schlüssel",
    }
    install(tmp_path, "contexts", catalogue(entries))
    assert all_pairs(tmp_path) == {
        "Open": ("Offen", "Öffnen"),  # equally frequent, sorted by text
        "one file": ("eine Datei",),
        "a key": ("ein Schlüssel",),
    }


def test_references_are_sorted_by_the_number_of_catalogues(tmp_path):
    for name in ("one", "two"):
        install(tmp_path, name, catalogue({"Cancel": "Verwerfen"}))
    install(tmp_path, "three", catalogue({"Cancel": "Abbrechen", "a\x04Cancel": "Abbrechen"}))
    install(tmp_path, "four", catalogue({"_Cancel": "_Beenden"}))
    assert all_pairs(tmp_path) == {"Cancel": ("Verwerfen", "Abbrechen", "Beenden")}


@pytest.mark.parametrize(
    ("source", "translation", "expected"),
    [
        ("_Open file", "Datei ö_ffnen", ("Open file", "Datei öffnen")),
        ("E&xit", "B&eenden", ("Exit", "Beenden")),
        ("Save  the\tfile ", " Datei speichern\n", ("Save the file", "Datei speichern")),
        ("Made by AT&T", "Von AT&T gemacht", ("Made by AT&T", "Von AT&T gemacht")),
        ("black & white", "schwarz & weiß", ("black & white", "schwarz & weiß")),
        ("size in bytes:", "Größe in Byte:", ("size in bytes:", "Größe in Byte:")),
        ("cafe\u0301 closed", "Café zu", ("café closed", "Café zu")),
        ("set max_connections higher", "setze max_connections höher", None),
        ("cannot open %s", "kann %s nicht öffnen", None),
        ("%(count)d files left", "%(count)d Dateien übrig", None),
        ("{0} files", "{0} Dateien", None),
        ("set $HOME first", "erst $HOME setzen", None),
        ("<b>bold</b> text", "<b>fetter</b> Text", None),
        ("see https://example.org for more", "mehr unter https://example.org", None),
        ("first\nsecond", "erstes\nzweites", None),
        ("use --force to go on", "weiter mit --force", None),
        ("Black &amp; White", "Schwarz &amp; Weiß", None),
        ("Berlin", "berlin", None),
        ("1.5", "1,5", None),
        ("one two three four", "eins zwei drei vier", None),  # more than three words
        ("No", "Das ist leider ganz unmöglich", None),  # lengths 2 and 29
        ("", "leer", None),
    ],
)
def test_clean_normalises_plain_pairs_and_rejects_others(source, translation, expected):
    assert clean(source, translation, max_words=3 if "four" in source else 15) == expected


def test_splits_share_no_source_regardless_of_case_and_punctuation(many):
    install(
        many,
        "variants",
        catalogue({"The Alpha beta, gamma!": "Das Gamma", "the delta: zeta zeta": "das Delta"}),
    )
    sources = {split: {sample.input for sample in opened(many, split)} for split in SPLITS}
    assert sum(map(len, sources.values())) == 602
    assert [len(sources[split]) / 602 for split in SPLITS] == pytest.approx([0.9, 0.05, 0.05], abs=0.03)
    for source, variant in (
        ("the alpha beta gamma", "The Alpha beta, gamma!"),
        ("the delta zeta zeta", "the delta: zeta zeta"),
    ):
        assert [split for split in SPLITS if source in sources[split]] == [
            split for split in SPLITS if variant in sources[split]
        ]


def test_ids_ascend_and_size_selects_the_first(many):
    whole, part = opened(many), opened(many, size=10)
    ids = [sample.id for sample in whole]
    assert ids == sorted(set(ids)) and ids[0].startswith("train-")
    assert [sample.id for sample in part] == ids[:10] and len(part) == 10
    for index in (-1, 10):
        with pytest.raises(IndexError):
            part[index]


def test_the_fingerprint_depends_on_content_not_on_paths(many, tmp_path):
    content = (many / "de" / "LC_MESSAGES" / "many.mo").read_bytes()
    moved, changed = tmp_path / "moved", tmp_path / "changed"
    install(moved, "renamed", content)
    install(changed, "many", content)
    install(changed, "more", catalogue({"the alpha alpha alpha": "etwas anderes"}))
    for split in SPLITS:
        fingerprint = opened(many, split).fingerprint
        assert opened(moved, split).fingerprint == fingerprint
        another = split == split_of_source("the alpha alpha alpha")
        assert (opened(changed, split).fingerprint != fingerprint) == another
    assert opened(many, size=10).fingerprint != opened(many).fingerprint
    assert opened(many, "test").fingerprint != opened(many).fingerprint


def test_missing_catalogues_are_reported_in_one_line(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UnavailableError) as raised:
            opened(directory)
        assert str(raised.value) == (
            f"no gettext catalogues for 'de' under {directory}: "
            "install translated packages or name a directory"
        )
    install(tmp_path, "broken", b"?")
    with pytest.raises(UnavailableError, match=r"\(1 cannot be read, the first: .*broken\.mo: "):
        opened(tmp_path)
    install(tmp_path, "unusable", catalogue({"%s": "%s"}), "fr")
    with pytest.raises(UnavailableError, match="no clean pair of up to 15 words for split 'train'"):
        opened(tmp_path, language="fr")


def test_the_nearest_language_is_suggested(tmp_path):
    for language in ("pt_BR", "fr", "sr@latin"):
        install(tmp_path, "some", catalogue({"door": "x"}), language)
    (tmp_path / "pt" / "LC_MESSAGES").mkdir(parents=True)  # a folder without a catalogue is ignored
    for language, nearest in (("pt", "pt_BR"), ("frr", "fr"), ("sr", "sr@latin"), ("pt_PT", "pt_BR")):
        with pytest.raises(UnavailableError) as raised:
            opened(tmp_path, language=language)
        assert str(raised.value) == (
            f"no gettext catalogues for '{language}' under {tmp_path} (there are 3 other languages, "
            f"the nearest '{nearest}'): install translated packages or name a directory"
        )


@pytest.mark.parametrize("language", ["de", "sr@Latn", "pt_BR", "zh_Hans", "sr_RS@latin", "ast"])
def test_a_language_may_have_a_territory_a_script_and_a_variant(language, tmp_path):
    install(tmp_path, "some", catalogue({"door": "Tür"}), language)
    assert all_pairs(tmp_path, language=language) == {"door": ("Tür",)}


def test_a_pair_of_ten_thousand_words_is_excluded_by_max_words(tmp_path):
    long = " ".join(["word"] * 10_000)
    install(tmp_path, "some", catalogue({long: f"x {long}", "door": "Tür"}))
    assert all_pairs(tmp_path) == {"door": ("Tür",)}
    assert all_pairs(tmp_path, max_words=10_001) == {"door": ("Tür",), long: (f"x {long}",)}


@pytest.mark.parametrize("language", ["../etc", "de/..", "DE", ""])
def test_a_language_may_not_be_a_path(language):
    with pytest.raises(ValueError, match="language"):
        GettextOptions(language=language)


@pytest.mark.skipif(not Path("/usr/share/locale/de/LC_MESSAGES").is_dir(), reason="no German catalogues")
def test_pairs_of_the_systems_catalogues_are_plain_text():
    dataset = Gettext(GettextOptions(), "validation", "translation")
    for sample in dataset:
        for text in (sample.input, *sample.target):
            assert text == " ".join(text.split()) and len(text.split()) <= 15 and "%" not in text


def test_it_is_registered():
    assert DATASETS.get("gettext") is Gettext
