"""The parallel-text data set, on files that the tests write."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import sacrebleu
from typer.testing import CliRunner

from harness.cli.app import app
from harness.datasets.dataset import DATASETS
from harness.datasets.parallel_text import ParallelText, ParallelTextOptions
from harness.datasets.sentence_pairs import split_of_source
from harness.errors import UnavailableError, UsageError
from harness.stages.score import make_metrics
from harness.task import Translation

SPLITS = ("train", "validation", "test")


def opened(directory: Path, split: str = "train", **options: object) -> ParallelText:
    return ParallelText(ParallelTextOptions(directory=directory, **options), split, "translation")


def pairs(dataset: ParallelText) -> list[tuple[object, object]]:
    return [(sample.input, sample.target) for sample in dataset]


def write(folder: Path, **files: str) -> Path:
    """Write the text of each keyword; `train_en` is written to train.en."""
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8", newline="")
    return folder


LINES = {"source": "all.en", "references": ("all.de",)}


class TestAlignedFiles:
    def test_one_file_per_split_and_language_as_in_multi30k_and_wmt(self, tmp_path: Path) -> None:
        write(tmp_path, train_en="a dog\na cat\n", train_de="ein Hund\neine Katze\n")
        write(tmp_path, val_en="a cow\n", val_de="eine Kuh\n", flickr_en="a fly", flickr_de="eine Fliege")
        options = {
            "source": "{split}.en",
            "references": ("{split}.de",),
            "split_names": ("train", "val", "flickr"),
        }
        assert pairs(opened(tmp_path, **options)) == [("a dog", ("ein Hund",)), ("a cat", ("eine Katze",))]
        assert pairs(opened(tmp_path, "validation", **options)) == [("a cow", ("eine Kuh",))]
        assert pairs(opened(tmp_path, "test", **options)) == [("a fly", ("eine Fliege",))]
        assert [sample.id for sample in opened(tmp_path, **options)] == ["train-000000001", "train-000000002"]

    def test_sentences_have_the_document_that_their_line_of_another_file_names(self, tmp_path: Path) -> None:
        write(tmp_path, train_en="a\nb\nc\n", train_de="d\ne\nf\n", train_docs="news\nnews\n\n")
        options = {"source": "{split}.en", "references": ("{split}.de",)}
        grouped = opened(tmp_path, groups="{split}.docs", **options)
        assert [sample.group for sample in grouped] == ["news", "news", None]
        assert pairs(grouped) == pairs(opened(tmp_path, **options))
        assert grouped.fingerprint != opened(tmp_path, **options).fingerprint

    def test_a_line_may_lack_some_of_several_references(self, tmp_path: Path) -> None:
        write(tmp_path, train_en="yes\nno\n", train_de="ja\nnein\n", train_at="jo\n\n")
        dataset = opened(tmp_path, source="{split}.en", references=("{split}.de", "{split}.at"))
        assert pairs(dataset) == [("yes", ("ja", "jo")), ("no", ("nein",))]

    def test_compressed_files(self, tmp_path: Path) -> None:
        for name, text in {"train.en.gz": "a dog\n", "train.de.gz": "ein Hund\n"}.items():
            (tmp_path / name).write_bytes(gzip.compress(text.encode()))
        options = {"source": "{split}.en.gz", "references": ("{split}.de.gz",)}
        assert pairs(opened(tmp_path, **options)) == [("a dog", ("ein Hund",))]
        (tmp_path / "train.de.gz").write_bytes(gzip.compress(b"ein Hund\n")[:-6])
        with pytest.raises(UsageError, match=r"train\.de\.gz: not a complete gzip file"):
            opened(tmp_path, size=1, **options)
        (tmp_path / "train.de.gz").write_bytes(gzip.compress(bytes(70 << 20)))
        with pytest.raises(UsageError, match=r"train\.de\.gz: unpacks to more than 67,108,864 bytes"):
            opened(tmp_path, size=1, **options)

    def test_only_a_line_feed_ends_a_line(self, tmp_path: Path) -> None:
        write(tmp_path, train_en="one\u2028two\r\nthree\x0bfour\r\n", train_de="eins\r\nzwei\r\n")
        dataset = opened(tmp_path, source="{split}.en", references=("{split}.de",))
        assert [sample.input for sample in dataset] == ["one\u2028two", "three\x0bfour"]

    def test_unequal_lengths_name_both_files_and_counts(self, tmp_path: Path) -> None:
        write(tmp_path, all_en="a\nb\nc\n", all_de="x\ny\n")
        with pytest.raises(UsageError) as raised:
            opened(tmp_path, **LINES)
        assert str(raised.value) == (
            f"{tmp_path / 'all.de'}: has 2 lines, {tmp_path / 'all.en'} has 3; "
            "expected one sentence per line in both"
        )

    def test_a_bad_byte_is_reported_with_file_and_line(self, tmp_path: Path) -> None:
        write(tmp_path, all_en="size\ndoor\n")
        (tmp_path / "all.de").write_bytes(b"Tuer\nGr\xf6\xdfe\n")
        with pytest.raises(UsageError, match=r"all\.de:2: not UTF-8 \(byte 0xf6\)"):
            opened(tmp_path, **LINES)

    def test_utf_16_and_a_bad_code_unit(self, tmp_path: Path) -> None:
        for name, text in {"train.en": "size\ndoor\n", "train.de": "Größe\nTür\n"}.items():
            (tmp_path / name).write_text(text, encoding="utf-16")
        options = {"source": "{split}.en", "references": ("{split}.de",)}
        assert pairs(opened(tmp_path, **options)) == [("size", ("Größe",)), ("door", ("Tür",))]
        (tmp_path / "train.de").write_bytes("Größe\n".encode("utf-16") + b"\x00\xd8\x41\x00")
        with pytest.raises(UsageError, match=r"train\.de:2: not UTF-16"):
            opened(tmp_path, size=1, **options)

    def test_a_similar_name_is_suggested_and_a_missing_folder_is_unavailable(self, tmp_path) -> None:
        write(tmp_path, all_en="a\n", al_de="b\n")
        with pytest.raises(UsageError, match=r"all\.de: file not found; did you mean 'a.*\.(en|de)'\?"):
            opened(tmp_path, **LINES)
        with pytest.raises(UnavailableError, match="folder not found"):
            opened(tmp_path / "absent", **LINES)


class TestTables:
    def test_columns_are_selected_and_quotes_are_literal(self, tmp_path: Path) -> None:
        text = '1\tdeu\tEr sagte "ja.\t7\teng\tHe said "yes.\n2\tdeu\tGeh.\t8\teng\tGo.\n'
        write(tmp_path, train_tsv=text)
        dataset = opened(tmp_path, table="{split}.tsv", source_column=6, reference_columns=(3,))
        assert pairs(dataset) == [('He said "yes.', ('Er sagte "ja.',)), ("Go.", ("Geh.",))]

    def test_a_row_with_too_few_columns_is_reported_with_its_line(self, tmp_path: Path) -> None:
        write(tmp_path, train_tsv="Go.\tGeh.\nHi.\n")
        with pytest.raises(UsageError, match=r"train\.tsv:2: expected at least 2 columns .* found 1"):
            opened(tmp_path, table="{split}.tsv")


class TestExclusion:
    def test_empty_lines_are_counted_and_keep_the_alignment(self, tmp_path: Path, caplog) -> None:
        write(tmp_path, train_en="a\n\nc\n \ne\n", train_de="A\nB\n\n\nE\n")
        with caplog.at_level(logging.WARNING):
            dataset = opened(tmp_path, source="{split}.en", references=("{split}.de",))
        assert pairs(dataset) == [("a", ("A",)), ("e", ("E",))]
        assert [sample.id[-1] for sample in dataset] == ["1", "5"]
        [record] = caplog.records
        assert "2 samples (3 pairs without source or translation)" in record.getMessage()

    def test_limits_apply_to_source_and_references(self, tmp_path: Path, caplog) -> None:
        write(tmp_path, train_en="a\na b\na b c\na b c d\n", train_de="x\nx\nx x x x x\nx\n")
        with caplog.at_level(logging.WARNING):
            dataset = opened(tmp_path, source="{split}.en", references=("{split}.de",), max_words=3)
        assert [sample.input for sample in dataset] == ["a", "a b"]
        assert "(2 pairs longer than 3 words)" in caplog.text

    def test_ten_thousand_tokens_are_kept_unless_limited(self, tmp_path: Path) -> None:
        long = " ".join(["word"] * 10_000)
        write(tmp_path, train_en=f"{long}\nshort\n", train_de=f"{long}\nkurz\n")
        options = {"source": "{split}.en", "references": ("{split}.de",)}
        assert opened(tmp_path, **options)[0].input == long
        assert pairs(opened(tmp_path, max_words=100, **options)) == [("short", ("kurz",))]

    def test_a_split_without_any_pair_is_an_error_with_the_reasons(self, tmp_path: Path) -> None:
        write(tmp_path, train_en="\n\n", train_de="a\nb\n")
        with pytest.raises(UsageError, match=r"no pair remains \(2 pairs without source or translation\)"):
            opened(tmp_path, source="{split}.en", references=("{split}.de",))

    def test_size_selects_the_first(self, tmp_path: Path) -> None:
        write(tmp_path, train_en="a\nb\nc\n", train_de="A\nB\nC\n")
        dataset = opened(tmp_path, source="{split}.en", references=("{split}.de",), size=2)
        assert pairs(dataset) == [("a", ("A",)), ("b", ("B",))]
        for index in (-1, 2):
            with pytest.raises(IndexError):
                dataset[index]


class TestSplitsByHash:
    def test_every_pair_is_in_the_split_of_its_source(self, tmp_path: Path) -> None:
        words = ["alpha", "beta", "gamma", "delta", "eta", "iota", "kappa"]
        sources = [f"{a} {b} {c}" for a in words for b in words for c in words]
        text = "\n".join(sources)
        write(tmp_path, all_en=text, all_de=text.upper())
        inputs = {split: [sample.input for sample in opened(tmp_path, split, **LINES)] for split in SPLITS}
        assert sorted(source for split in SPLITS for source in inputs[split]) == sorted(sources)
        assert all(split_of_source(source) == split for split in SPLITS for source in inputs[split])
        assert [len(inputs[split]) / len(sources) for split in SPLITS] == pytest.approx(
            [0.9, 0.05, 0.05], abs=0.04
        )
        reversed_order = "\n".join(reversed(sources))
        (tmp_path / "moved").mkdir()
        write(tmp_path / "moved", all_en=reversed_order, all_de=reversed_order.upper())
        assert {s.input for s in opened(tmp_path / "moved", "test", **LINES)} == set(inputs["test"])


class TestFingerprint:
    def test_it_depends_on_content_not_on_path_or_format(self, tmp_path: Path) -> None:
        aligned, table = tmp_path / "aligned", tmp_path / "table"
        for folder in (aligned, table):
            folder.mkdir()
        write(aligned, train_en="a\nb\n", train_de="A\nB\n")
        write(table, train_tsv="a\tA\nb\tB\n")
        lines = {"source": "{split}.en", "references": ("{split}.de",)}
        fingerprint = opened(aligned, **lines).fingerprint
        assert opened(table, table="{split}.tsv").fingerprint == fingerprint
        assert opened(aligned, size=1, **lines).fingerprint != fingerprint
        write(table, val_tsv="a\tA\nb\tb\n")
        changed = opened(table, table="{split}.tsv", split_names=("val", "validation", "test"))
        assert changed.fingerprint != fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "a", "references": ["b"], "table": "c"}, "expected either 'source' with"),
        ({"source": "a"}, "'source' requires at least one file in 'references'"),
        ({"references": ["a"]}, "'references' requires 'source'"),
        ({"source": "a", "references": ["b"], "source_column": 2}, "'source_column' requires 'table'"),
        ({}, "expected either 'source' with 'references' or 'table'"),
        ({"source": "{split}.en", "references": ["b"]}, "expected {split} in all file names or in none"),
        ({"table": "../secret.tsv"}, "leaves the directory"),
        ({"source": "/etc/passwd", "references": ["b"]}, "leaves the directory"),
        ({"table": "a", "reference_columns": [0]}, "at least one column, counted from 1"),
    ],
)
def test_contradictory_options_are_rejected(options, message, tmp_path):
    with pytest.raises(ValueError) as raised:
        ParallelTextOptions(directory=tmp_path, **options)
    assert message in str(raised.value)


def test_the_tokenizer_of_a_corpus_decides_its_bleu_and_its_fingerprint(tmp_path):
    write(tmp_path, **{"test.en": "we see it\n", "test.zh": "我们今天看长城\n"})
    options = {"source": "{split}.en", "references": ("{split}.zh",)}
    hypothesis = Translation("我们昨天看长城")
    fingerprints = set()
    for tokenize, lowercase, case in (("13a", False, "mixed"), ("zh", False, "mixed"), ("zh", True, "lc")):
        corpus = opened(tmp_path, "test", tokenize=tokenize, lowercase=lowercase, **options)
        (metric,) = make_metrics(["bleu"], corpus)
        bleu = metric.summarise([metric.statistics(corpus[0].target, hypothesis)]).metrics["bleu"]
        oracle = sacrebleu.corpus_bleu([hypothesis.text], [list(corpus[0].target)], tokenize=tokenize)
        assert bleu.value == oracle.score
        assert f"|case:{case}|" in bleu.signature and f"|tok:{tokenize}|" in bleu.signature
        fingerprints.add(corpus.fingerprint)
    assert len(fingerprints) == 3


def test_an_unknown_tokenizer_is_an_error_before_the_run(tmp_path):
    write(tmp_path, **{"test.en": "a b c\n", "test.de": "d e f\n"})
    suite = f"""
        name: words
        datasets:
          pairs:
            dataset: parallel-text
            options:
              {{directory: {tmp_path}, source: "{{split}}.en", references: ["{{split}}.de"], tokenize: zhh}}
        adapters: {{fake: {{adapter: fake-translation}}}}
        benchmarks: {{pairs: {{dataset: pairs, adapters: [fake], metrics: [bleu]}}}}
    """
    (tmp_path / "suite.yaml").write_text(suite)
    result = CliRunner().invoke(app, ["validate", str(tmp_path / "suite.yaml")])
    assert result.exit_code == 2
    assert "unknown tokenizer 'zhh'; did you mean 'zh'?" in result.stderr


def test_a_split_name_may_not_leave_the_directory(tmp_path):
    with pytest.raises(ValueError, match="leaves the directory"):
        ParallelTextOptions(directory=tmp_path, table="{split}.tsv", split_names=("../a", "b", "c"))


def test_it_is_registered():
    assert DATASETS.get("parallel-text") is ParallelText


def test_doctor_reports_the_required_option(monkeypatch):
    only = {name: entry for name, entry in DATASETS.entries().items() if name == "parallel-text"}
    monkeypatch.setattr(DATASETS, "entries", lambda: only)
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0, result.stderr
    findings = {check["name"]: check["finding"] for check in json.loads(result.stdout)["checks"]}
    assert findings["data set parallel-text"] == "your files: set directory"
