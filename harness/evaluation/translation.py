"""Reference translations and hypotheses: text files with one sentence per line."""

import re
from collections.abc import Sequence
from pathlib import Path

from harness.datasets.files import read_lines
from harness.errors import UsageError, checked
from harness.evaluation.annotation_files import AnnotationFiles, Predictions
from harness.metrics.bleu import TOKENIZER, UNSPACED_TOKENIZERS
from harness.task import Sample, Translation

METRICS = ("bleu", "chrf", "ter")
# Thai to Myanmar, Khmer, kana, and Chinese characters: scripts that put no spaces between words.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")
_STRUCTURES = {
    "is a JSON object": re.compile(r"\{.*\}"),
    "is markup": re.compile(r"<.*>"),
    "has a tab": re.compile(r".*\t.*"),
}


class ReferenceTexts(AnnotationFiles):
    """A data set of reference translations, one or more per sentence. Sample ids are line numbers."""

    tasks = ("translation",)

    @checked
    def __init__(
        self,
        references: Sequence[str | Path],
        tokenize: str = TOKENIZER,
        lowercase: bool = False,
        metrics: Sequence[str] = (),
    ) -> None:
        """Read the files of references.

        Args:
            references: UTF-8 text with one sentence per line, the same number of lines in each.
            tokenize: sacrebleu's name of the tokenizer of BLEU.
            lowercase: compute BLEU without regard to case.
            metrics: some of METRICS. None means all.
        """
        if not references:
            raise UsageError("expected at least one file of references")
        files = [*map(Path, references)]
        super().__init__("translation", files[0], files)
        self.metric_names = tuple(dict.fromkeys(metrics)) or METRICS
        self.metric_options = {"tokenize": tokenize, "lowercase": lowercase}
        self._first = files[0]
        columns = [_sentences(file) for file in files]  # once each: a file may be a pipe
        self._length = len(columns[0])
        for file, sentences in zip(files, columns, strict=True):
            self._check_length(file, sentences)
        self._targets = list(zip(*columns, strict=True))
        text = "".join(sentence for target in self._targets for sentence in target)
        if tokenize not in UNSPACED_TOKENIZERS and 2 * len(_UNSPACED.findall(text)) > len(text):
            self._notes.append(
                f"{self._first}: most of the text is in a script without spaces, which tokenizer {tokenize} "
                f"does not divide into words; see --tokenize {', '.join(UNSPACED_TOKENIZERS)}"
            )

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Sample:
        return Sample(str(index + 1), "", self._targets[index])

    def read_predictions(self, path: Path) -> Predictions:
        sentences = _sentences(path)
        self._check_length(path, sentences)
        written = [sentence for sentence in sentences if sentence]
        for kind, pattern in _STRUCTURES.items():
            if written and all(map(pattern.fullmatch, written)):
                self._notes.append(f"{path}: every line {kind}; expected plain sentences")
        return [(str(number), Translation(sentence)) for number, sentence in enumerate(sentences, start=1)]

    def _check_length(self, path: Path, sentences: Sequence[str]) -> None:
        if len(sentences) != self._length:
            raise UsageError(
                f"{path}: has {len(sentences)} lines, {self._first} has {self._length}; "
                f"expected one line per sentence in both"
            )


def _sentences(path: Path) -> list[str]:
    """Read lines without trailing white space, as sacrebleu does."""
    sentences = [line.rstrip() for line in read_lines(path)]
    if not sentences:
        raise UsageError(f"{path}: expected one sentence per line, found an empty file")
    return sentences
