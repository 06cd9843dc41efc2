"""`harness export`: a corpus read on another machine is identical to the one exported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from harness.cli.app import app
from harness.datasets.dataset import DATASETS, Dataset
from harness.datasets.exported_text import MANIFEST, export_text
from harness.datasets.parallel_text import ParallelText, ParallelTextOptions
from harness.errors import UsageError

SPLITS = ("train", "validation", "test")
PHRASES = {"language": "fr", "size": 30, "max_tokens": 9}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def opened(directory: Path, split: str, **options: object) -> ParallelText:
    return ParallelText(ParallelTextOptions(directory=directory, **options), split, "translation")


def original(name: str, split: str, **options: object) -> Dataset:
    cls = DATASETS.get(name)
    return cls(cls.Options(**options), split, "translation")


@pytest.fixture
def lines(tmp_path: Path) -> dict[str, object]:
    """Create a corpus with two references, an empty line and unusual characters. Return its options."""
    sources = [f'number {number}: "\\ \u2028 {chr(0x1F600 + number)}' for number in range(60)] + [""]
    (tmp_path / "all.en").write_text("\n".join([*sources, ""]), encoding="utf-8")
    for name in ("one", "two"):
        (tmp_path / name).write_text("".join(f"{name} ß {s}\n" for s in sources), encoding="utf-8")
    return {"directory": tmp_path, "source": "all.en", "references": ["one", "two"]}


def same(dataset: Dataset, other: Dataset) -> bool:
    return [(s.id, s.input, s.target) for s in map(dataset.__getitem__, range(len(dataset)))] == [
        (s.id, s.input, s.target) for s in map(other.__getitem__, range(len(other)))
    ]


def test_samples_keep_their_ids_and_splits(tmp_path):
    for name, options in (("phrases", PHRASES), ("delayed-recall", {"size": 12})):
        out = tmp_path / "deeper" / name
        manifest = export_text(name, options, (), out)
        assert sorted(path.name for path in out.iterdir()) == [
            MANIFEST,
            "test.jsonl",
            "train.jsonl",
            "validation.jsonl",
        ]
        for split in SPLITS:
            source, copy = original(name, split, **options), opened(out, split)
            assert same(source, copy)
            assert manifest.splits[split].fingerprint == copy.fingerprint
            assert manifest.splits[split].original_fingerprint == source.fingerprint
            assert manifest.splits[split].samples == len(copy)


def test_a_corpus_of_files_keeps_its_fingerprint(lines, tmp_path):
    manifest = export_text("parallel-text", lines, (), tmp_path / "out")
    for split in SPLITS:
        source, copy = original("parallel-text", split, **lines), opened(tmp_path / "out", split)
        assert same(source, copy) and source.fingerprint == copy.fingerprint
        assert manifest.splits[split].skipped == ("1 pairs without source or translation",)


def test_limits_apply_to_an_exported_corpus(tmp_path):
    export_text("phrases", PHRASES, ["test"], tmp_path / "out")
    dataset = opened(tmp_path / "out", "test", max_words=5, size=3)
    whole = original("phrases", "test", **PHRASES)
    short = [
        sample.id
        for sample in map(whole.__getitem__, range(len(whole)))
        if max(len(str(sample.input).split()), len(sample.target[0].split())) <= 5
    ]
    assert [sample.id for sample in dataset] == short[:3]
    assert dataset.skipped == (f"{30 - len(short)} pairs longer than 5 words",)


class TestChangedFiles:
    @pytest.fixture
    def out(self, tmp_path: Path) -> Path:
        export_text("copy", {"size": 5}, ["train", "test"], tmp_path / "out")
        return tmp_path / "out"

    def test_a_changed_letter_is_rejected(self, out: Path) -> None:
        path = out / "test.jsonl"
        path.write_text(path.read_text().replace("a", "b", 1))
        with pytest.raises(UsageError, match=r"test\.jsonl: has changed since it was exported"):
            opened(out, "test")
        opened(out, "train")

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            (b"", "2: Invalid JSON: EOF"),
            (b"{", "2: Invalid JSON: EOF"),
            (b"x", "2: Invalid JSON: expected value"),
            (b"[]", "2: Input should be an object"),
            (b"null", "2: Input should be an object"),
            (b'{"id": "a", "source": "b"}', "2: references: Field required"),
            (b'{"id": "a", "source": "b", "references": []}', "2: references: Tuple should have at least 1"),
            (
                b'{"id": "a", "source": "b", "references": "c"}',
                "2: references: Input should be a valid array",
            ),
            (b'{"id": 1, "source": "b", "references": ["c"]}', "2: id: Input should be a valid string"),
            (
                b'{"id": "a", "source": null, "references": ["c"]}',
                "2: source: Input should be a valid string",
            ),
            (b'{"id": "a", "source": "b", "references": ["c"], "x": 1}', "2: x: Extra inputs"),
            (b'{"id": "a", "source": "\xff", "references": ["c"]}', "2: Invalid JSON: invalid unicode"),
            (b'{"id": "a", "source": "\\ud800", "references": ["c"]}', "2: Invalid JSON: "),
            (b"{}\n{}", " 6 lines, but .*manifest.json lists 5 samples"),
        ],
    )
    def test_a_malformed_line_is_named(self, out: Path, line: bytes, message: str) -> None:
        manifest = json.loads((out / MANIFEST).read_text())
        first, _, *others = (out / "test.jsonl").read_bytes().splitlines()
        content = b"\n".join([first, line, *others])
        (out / "test.jsonl").write_bytes(content)
        manifest["splits"]["test"]["sha256"] = hashlib.sha256(content).hexdigest()
        (out / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(UsageError, match=rf"test\.jsonl:{message}"):
            opened(out, "test")

    @pytest.mark.parametrize("name", ["a\0b", "\ud800", ""])
    def test_a_file_name_that_cannot_exist_is_named(self, out: Path, name: str) -> None:
        manifest = json.loads((out / MANIFEST).read_text())
        manifest["splits"]["test"]["file"] = name
        (out / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(UsageError, match=r"manifest\.json: file .* cannot be read"):
            opened(out, "test")

    def test_a_split_that_was_not_exported(self, out: Path) -> None:
        with pytest.raises(
            UsageError, match=r"manifest\.json: unknown split 'validation' .*known: test, train"
        ):
            opened(out, "validation")

    def test_a_manifest_that_is_missing_malformed_or_leaves_the_folder(self, out: Path) -> None:
        manifest = json.loads((out / MANIFEST).read_text())
        manifest["splits"]["train"]["file"] = "../secret"
        (out / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(UsageError, match="leaves the folder"):
            opened(out, "train")
        del manifest["splits"]["train"]["sha256"]
        (out / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(UsageError, match=r"manifest\.json: splits\.train\.sha256: Field required"):
            opened(out, "test")
        (out / MANIFEST).unlink()
        with pytest.raises(UsageError, match=r"not an exported corpus \(manifest\.json is missing\)"):
            opened(out, "train")


class TestNothingPartial:
    def test_a_split_that_fails_leaves_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "train.tsv").write_text("a\tb\n")
        options = {"directory": tmp_path, "table": "{split}.tsv"}
        with pytest.raises(UsageError, match=r"validation\.tsv: file not found"):
            export_text("parallel-text", options, (), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["train.tsv"]
        export_text("parallel-text", options, ["train"], tmp_path / "out")
        assert len(opened(tmp_path / "out", "train")) == 1

    def test_an_existing_folder_is_not_changed(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        with pytest.raises(UsageError, match="already exists"):
            export_text("copy", {"size": 5}, (), tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())


class TestCommand:
    def test_it_prints_the_manifest_or_a_table(self, tmp_path: Path) -> None:
        result = call("export", "copy", "--option", "size=5", "--out", tmp_path / "out", "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout) == json.loads((tmp_path / "out" / MANIFEST).read_text())
        result = call("export", "copy", "--option", "size=5", "--split", "test", "--out", tmp_path / "two")
        assert result.stdout.splitlines()[1].split("\t")[:2] == [str(tmp_path / "two" / "test.jsonl"), "5"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["scenes"], "'scenes' is for detection and segmentation: only translation data sets"),
            (["phrase"], "unknown data set 'phrase'; did you mean 'phrases'?"),
            (["copy", "--option", "siz=5"], "unknown option 'siz'; did you mean 'size'?"),
            (["copy", "--option", "size"], "--option size: expected KEY=VALUE"),
            (["copy", "--option", "size=[1"], "--option size=[1: the value is not YAML"),
            (["copy", "--option", "size=0"], "option size: Input should be greater than or equal to 1"),
            (["copy", "--split", "tests"], "unknown split of 'copy' 'tests'; did you mean 'test'?"),
            (["parallel-text"], "option directory: Field required"),
        ],
    )
    def test_usage_errors_are_one_line_and_exit_with_2(self, arguments, message, tmp_path: Path) -> None:
        result = call("export", *arguments, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert message in result.stderr and result.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_a_suite_plans_the_same_trial_from_an_exported_corpus(self, lines, tmp_path: Path) -> None:
        files = {key: value for key, value in lines.items() if key != "directory"}
        export_text("parallel-text", lines, (), tmp_path / "out")
        planned = []
        for folder, options in ((".", files), ("out", {})):
            suite = {
                "name": "exported",
                "data_root": str(tmp_path),
                "datasets": {
                    "text": {"dataset": "parallel-text", "options": {"directory": folder, **options}}
                },
                "adapters": {
                    "a": {"adapter": "attention", "checkpoint": "attention-phrases-en-de"},
                },
                "benchmarks": {"b": {"dataset": "text", "adapters": ["a"], "metrics": ["bleu"]}},
            }
            (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
            result = call("plan", tmp_path / "suite.yaml", "--json", "--out", tmp_path / "run")
            assert result.exit_code == 0, result.stderr
            planned.append([trial["id"] for trial in json.loads(result.stdout)["trials"]])
        assert planned[0] == planned[1]
