"""Text → ids → text, for subwords and for words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.translation.vocabulary import (
    BEGIN,
    END,
    PAD,
    UNKNOWN,
    Vocabulary,
    VocabularyKind,
    learn_vocabulary,
    read_vocabulary,
)
from harness.errors import UsageError

KINDS: tuple[VocabularyKind, ...] = ("unigram", "bpe", "word")
TEXTS = [
    "Save the file (once)?",
    "Datei speichern: »heute«, oder nie!",
    "Über den 2. Weg",
    "The file is open; close it.",
]


def learn(kind: VocabularyKind, size: int = 200) -> Vocabulary:
    return learn_vocabulary(kind, size, TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_text_survives_the_round_trip_with_its_spaces_and_punctuation(kind: VocabularyKind) -> None:
    vocabulary = learn(kind)
    for text in TEXTS:
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text
        assert all(END < token < len(vocabulary) for token in ids)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_not_part_of_the_text(kind: VocabularyKind) -> None:
    vocabulary = learn(kind)
    ids = vocabulary.encode(TEXTS[0])
    assert vocabulary.decode([BEGIN, *ids, END, PAD]) == TEXTS[0]


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_join_to_the_text(kind: VocabularyKind) -> None:
    vocabulary = learn(kind)
    tokens = [vocabulary.token(id) for id in vocabulary.encode(TEXTS[0])]
    assert "".join(tokens) == "▁Save▁the▁file▁(once)?"
    assert [vocabulary.token(id) for id in (PAD, UNKNOWN, BEGIN, END)] == ["<pad>", "<unk>", "<s>", "</s>"]


@pytest.mark.parametrize("kind", KINDS)
def test_white_space_and_unicode_composition_are_normalised(kind: VocabularyKind) -> None:
    vocabulary = learn(kind)
    decomposed = "U\u0308ber \t den\u00a02.\n\u2581Weg "  # U + combining diaeresis, tab, no-break space
    assert vocabulary.encode(decomposed) == vocabulary.encode("Über den 2. Weg")


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_has_no_tokens(kind: VocabularyKind) -> None:
    vocabulary = learn(kind)
    assert vocabulary.encode("") == vocabulary.encode(" \n") == []
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_learning_and_storing_are_reproducible(kind: VocabularyKind) -> None:
    vocabulary = learn(kind)
    assert learn(kind).to_bytes() == vocabulary.to_bytes()
    restored = read_vocabulary(kind, vocabulary.to_bytes())
    assert len(restored) == len(vocabulary)
    assert [restored.encode(text) for text in TEXTS] == [vocabulary.encode(text) for text in TEXTS]


def test_the_most_frequent_words_are_kept_and_ties_are_alphabetical() -> None:
    vocabulary = learn_vocabulary("word", 4 + 3, ["b a c a", "c a d", "b"])
    # a 3 times, b and c twice, d once: d is out
    assert [vocabulary.decode([token]) for token in range(4, 7)] == ["a", "b", "c"]
    assert vocabulary.encode("a d c") == [4, UNKNOWN, 6]
    assert vocabulary.decode([4, UNKNOWN, 6]) == "a ⁇ c"


def test_punctuation_with_and_without_a_space_before_it_are_two_words() -> None:
    vocabulary = learn_vocabulary("word", 50, ["f(x) (y)"])
    assert [vocabulary.decode([token]) for token in vocabulary.encode("(y)")] == ["(", "y", ")"]
    assert vocabulary.decode(vocabulary.encode("f(x) (y)")) == "f(x) (y)"


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_unknown_characters_are_marked_and_the_rest_is_kept(kind: VocabularyKind) -> None:
    vocabulary = learn(kind)
    ids = vocabulary.encode("file 漢 file")
    assert ids.count(UNKNOWN) == 1
    assert vocabulary.decode(ids).split() == ["file", "⁇", "file"]


def test_a_small_corpus_gives_a_small_vocabulary() -> None:
    assert len(learn_vocabulary("unigram", 4000, ["a b", "c"])) < 20
    assert len(learn_vocabulary("bpe", 4000, ["a b", "c"])) < 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_character_found_only_in_a_very_long_text_is_learnt(kind: VocabularyKind) -> None:
    vocabulary = learn_vocabulary(kind, 100, ["a b", "é " + "a b " * 5_000])
    assert UNKNOWN not in vocabulary.encode("é")


@pytest.mark.parametrize("kind", KINDS)
def test_learning_from_nothing_is_an_error(kind: VocabularyKind) -> None:
    with pytest.raises(UsageError, match="no text"):
        learn_vocabulary(kind, 100, ["", " "])


def test_more_characters_than_the_size_allows_are_an_error() -> None:
    with pytest.raises(UsageError, match="cannot learn a bpe vocabulary of 8 tokens"):
        learn_vocabulary("bpe", 8, TEXTS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a\na", b"two words"])
def test_an_invalid_vocabulary_file_is_an_error(kind: VocabularyKind, content: bytes) -> None:
    with pytest.raises(UsageError, match="vocabulary is"):
        read_vocabulary(kind, content)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_any_text_encodes_and_decodes(text: str) -> None:
    for vocabulary in LEARNT:
        ids = vocabulary.encode(text)
        assert all(0 <= token < len(vocabulary) and token not in (PAD, BEGIN, END) for token in ids)
        if UNKNOWN not in ids:
            assert vocabulary.encode(vocabulary.decode(ids)) == ids


LEARNT = [learn(kind) for kind in KINDS]
