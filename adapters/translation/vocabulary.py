"""Vocabularies, which convert text to token ids and back: subwords learnt by sentencepiece, or whole words.

Source and target share one vocabulary. Tokens include the spaces (`▁`), so that decoding gives plain text
without a detokeniser.
"""

import io
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from harness.errors import UsageError

PAD, UNKNOWN, BEGIN, END = range(4)
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
SPACE = "▁"  # U+2581, which sentencepiece writes for a space before a token

VocabularyKind = Literal["unigram", "bpe", "word"]


class Vocabulary(ABC):
    """A mapping of tokens to ids 0 … n−1, of which the first four are PAD, UNKNOWN, BEGIN and END."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text, without BEGIN and END and with UNKNOWN for unknown tokens.

        The text is normalised to Unicode NFC; runs of white space (and of `▁`) become one space.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the plain text of token ids, without PAD, BEGIN and END and with ` ⁇ ` for UNKNOWN."""

    @abstractmethod
    def token(self, id: int) -> str:
        """Return the token of an id, with `▁` for a space."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """Serialise the vocabulary for `read_vocabulary`."""


class SubwordVocabulary(Vocabulary):
    """Subwords of a sentencepiece model (Kudo and Richardson 2018), unigram or byte-pair encoding."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = model
        self._processor = SentencePieceProcessor(model_proto=model)

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._processor.encode(_normalised(text))]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._processor.decode([int(token) for token in ids])).strip()

    def token(self, id: int) -> str:
        return str(self._processor.id_to_piece(id))

    def to_bytes(self) -> bytes:
        return self._model


class WordVocabulary(Vocabulary):
    """Words and single non-word characters; tokens that follow a space start with `▁`."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = (*SPECIAL, *words)
        self._ids = {word: token for token, word in enumerate(self._words) if token >= len(SPECIAL)}

    def __len__(self) -> int:
        return len(self._words)

    def encode(self, text: str) -> list[int]:
        return [self._ids.get(word, UNKNOWN) for word in _words(text)]

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [
            f"{SPACE}⁇" if token == UNKNOWN else self._words[token]
            for token in ids
            if token not in (PAD, BEGIN, END)
        ]
        return "".join(pieces).replace(SPACE, " ").strip()

    def token(self, id: int) -> str:
        return self._words[id]

    def to_bytes(self) -> bytes:
        return "\n".join(self._words[len(SPECIAL) :]).encode()


def learn_vocabulary(kind: VocabularyKind, size: int, texts: Iterable[str]) -> Vocabulary:
    """Learn a vocabulary of at most `size` tokens, the four special ones included.

    The result is reproducible byte for byte from the same texts in the same order.

    Raises:
        UsageError: There is no text, or it has more distinct characters than `size` allows.
    """
    texts = [text for text in map(_normalised, texts) if text]
    if not texts:
        raise UsageError("cannot learn a vocabulary: the training split has no text")
    if kind == "word":
        counts = Counter(word for text in texts for word in _words(text))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return WordVocabulary(ranked[: size - len(SPECIAL)])
    return SubwordVocabulary(_train_sentencepiece(kind, size, texts))


def read_vocabulary(kind: VocabularyKind, content: bytes) -> Vocabulary:
    """Restore a vocabulary from the bytes of `to_bytes`.

    Raises:
        UsageError: The bytes are not a vocabulary of this kind.
    """
    if not content:
        raise UsageError("the checkpoint's vocabulary is empty")
    try:
        if kind != "word":
            return SubwordVocabulary(content)
        words = content.decode().split("\n")
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"the checkpoint's vocabulary is not of kind '{kind}': {error}") from error
    if len(set(words)) < len(words) or not all(_WORD.fullmatch(word) for word in words):
        raise UsageError(
            "the checkpoint's vocabulary is not of kind 'word': expected distinct tokens, one per line"
        )
    return WordVocabulary(words)


def _train_sentencepiece(kind: str, size: int, texts: Sequence[str]) -> bytes:
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type=kind,
            vocab_size=size,
            hard_vocab_limit=False,  # a small corpus may have fewer useful pieces than `size`
            character_coverage=1.0,
            # Text is already normalised; sentencepiece's own tables would add 240 kB to every checkpoint.
            normalization_rule_name="identity",
            pad_id=PAD,
            unk_id=UNKNOWN,
            bos_id=BEGIN,
            eos_id=END,
            # Maximum length in bytes, at least 10; sentencepiece skips longer sentences.
            max_sentence_length=max(10, *(len(text.encode()) for text in texts)),
            num_threads=1,
            minloglevel=2,  # errors only
        )
    except RuntimeError as error:
        raise UsageError(f"cannot learn a {kind} vocabulary of {size} tokens: {error}") from error
    return model.getvalue()


_WORD = re.compile(rf"{SPACE}?(?:\w+|[^\w\s{SPACE}])")


def _words(text: str) -> list[str]:
    return _WORD.findall(SPACE + _normalised(text).replace(" ", SPACE))


def _normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).replace(SPACE, " ").split())
