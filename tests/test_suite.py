"""Suites are read strictly: every mistake gives one message with file, line and the nearest valid name."""
# ruff: noqa: E501  the table of mistakes is most readable with one per line

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest
import yaml

from harness.errors import UnavailableError, UsageError
from harness.suite.loading import find_suite, load_suite, shipped_suites
from harness.suite.plan import plan
from harness.suite.schema import json_schema

GOOD = """\
name: good
datasets:
  few:
    dataset: phrases
    options: {size: 20}
adapters:
  ok:
    adapter: fake-translation
    batch_size: 4
    options:
      delay: 0.0
benchmarks:
  words:
    dataset: few
    adapters: [ok]
    metrics: [bleu]
    split: test
"""


def planned(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> list[str]:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    return [trial.name for trial in plan(load_suite(path, overrides)).trials]


def refused(tmp_path: Path, text: str, overrides: Sequence[str] = ()) -> str:
    """Return the message for a malformed suite: a single line such as `suite.yaml:LINE: …`."""
    with pytest.raises(UsageError) as caught:
        planned(tmp_path, text, overrides)
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert "\n" not in message
    return message


def test_a_valid_suite_is_accepted(tmp_path: Path) -> None:
    assert planned(tmp_path, GOOD) == ["words/ok"]


@pytest.mark.parametrize(
    ("change", "line", "expected"),
    [
        (("batch_size: 4", "batch_sise: 4"), 9, "adapters.ok.batch_sise: unknown key 'batch_sise'; did you mean 'batch_size'?"),
        (("name: good", "nam: good"), 1, "name: this key is required"),
        (("benchmarks:", "benchmark:"), 12, "benchmark: unknown key 'benchmark'; did you mean 'benchmarks'?"),
        (("fake-translation", "fake-translatio"), 8, "adapters.ok.adapter: unknown adapter 'fake-translatio'; did you mean 'fake-translation'?"),
        (("[ok]", "[okay]"), 15, "benchmarks.words.adapters.0: unknown adapter 'okay'; did you mean 'ok'?"),
        (("dataset: phrases", "dataset: phrase"), 4, "datasets.few.dataset: unknown data set 'phrase'; did you mean 'phrases'?"),
        (("dataset: few", "dataset: fe"), 14, "benchmarks.words.dataset: unknown data set 'fe'; did you mean 'few'?"),
        (("[bleu]", "[chrf, blue]"), 16, "benchmarks.words.metrics.1: unknown metric 'blue'; did you mean 'bleu'?"),
        (("[bleu]", "[coco]"), 16, "benchmarks.words.metrics.0: metric 'coco' is not for translation"),
        (("[bleu]", "[bleu, bleu]"), 16, "benchmarks.words.metrics.1: 'bleu' and 'bleu' both give 'bleu'"),
        (("split: test", "split: tets"), 17, "benchmarks.words.split: unknown split of 'phrases' 'tets'; did you mean 'test'?"),
        (("split: test", "task: detection"), 17, "benchmarks.words.task: unknown task of 'phrases' 'detection'"),
        (("split: test", "speed: [ofline]"), 17, "benchmarks.words.speed.0: unknown value 'ofline'; did you mean 'offline'?"),
        (("size: 20", "sise: 20"), 5, "datasets.few.options.sise: unknown option 'sise'; did you mean 'size'?"),
        (("size: 20", "size: many"), 5, "datasets.few.options.size: Input should be a valid integer"),
        (("size: 20", "min_tokens: 9, max_tokens: 4"), 5, "datasets.few.options: max_tokens (4) must be at least"),
        (("delay: 0.0", "dela: 0.0"), 11, "adapters.ok.options.dela: unknown option 'dela'; did you mean 'delay'?"),
        (("delay: 0.0", "delay: yes"), 11, "yes is read as bool, not as text: quote it, or write true or false"),
        (("delay: 0.0", "delay: 1:30"), 11, "1:30 is read as int, not as text: quote it, or write a decimal number"),
        (("delay: 0.0", "delay: 1:30.5"), 11, "1:30.5 is read as float, not as text: quote it"),
        (("delay: 0.0", "delay: 010"), 11, "010 is read as int, not as text: quote it"),
        (("delay: 0.0", "delay: true"), 11, "adapters.ok.options.delay: expected a value other than true and false (got True)"),
        (("name: good", 'name: good\ndescription: "\\ud800"'), 2, "character U+D800 is not text that can be stored"),
        (("name: good", 'name: good\ndescription: "\\0"'), 2, "character U+0000 is not text that can be stored"),
        (("delay: 0.0", "delay: .nan"), 11, "adapters.ok.options.delay: Input should be a finite number"),
        (("batch_size: 4", "batch_size: '4'"), 9, "adapters.ok.batch_size: Input should be a valid integer (got '4')"),
        (("batch_size: 4", "batch_size: true"), 9, "adapters.ok.batch_size: Input should be a valid integer (got True)"),
        (("batch_size: 4", "batch_size: 0"), 9, "adapters.ok.batch_size: a batch size is at least 1"),
        (("batch_size: 4", "batch_size: [1, x]"), 9, "adapters.ok.batch_size.1: Input should be a valid integer (got 'x')"),
        (("batch_size: 4", "batch_size: []"), 9, "adapters.ok.batch_size: a matrix needs distinct values"),
        (("batch_size: 4", "batch_size: [2, 2]"), 9, "adapters.ok.batch_size: a matrix needs distinct values"),
        (("batch_size: 4", "precision: [fp32, bf17]"), 9, "adapters.ok.precision.1: unknown value 'bf17'; did you mean 'bf16'?"),
        (("[ok]", "[ok, ok]"), 15, "benchmarks.words.adapters: duplicate adapter 'ok'"),
        (("[ok]", "[]"), 15, "benchmarks.words.adapters: List should have at least 1 item"),
        (("[ok]", "ok"), 15, "benchmarks.words.adapters: Input should be a valid list (got 'ok')"),
        (("name: good", "name: a/b"), 1, "name: String should match"),
        (("  ok:", "  a b:"), 6, "adapters: invalid name 'a b': use letters, digits"),
        (("  ok:", "  no:"), 7, "key no is read as bool, not as text: quote it"),
        (("split: test", "dataset: few"), 17, "duplicate key 'dataset'"),
        (("[ok]", "[ok"), 16, "malformed YAML"),
        (("name: good", "name: good\n\tx: 1"), 2, "malformed YAML: found character '\\t'"),
        (("name: good", "name: !!python/object:os.system x"), 1, "malformed YAML: could not determine a constructor"),
        (("name: good", "name: good\x00"), 1, "malformed YAML: special characters are not allowed"),
        (("{size: 20}", "&all {size: *all}"), 5, "an alias refers to a node that contains it"),
        (("split: test", "limit: 0"), 17, "benchmarks.words.limit: Input should be greater than 0 (got 0)"),
    ],
)  # fmt: skip
def test_a_mistake_is_reported_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, expected: str
) -> None:
    message = refused(tmp_path, GOOD.replace(*change, 1))
    assert message.startswith(f"suite.yaml:{line}: {expected}"), message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "suite.yaml:1: expected a mapping"),
        ("- a\n- b\n", "suite.yaml:1: expected a mapping"),
        (
            GOOD + "description: 2024-13-45\n",
            "suite.yaml:18: 2024-13-45 is read as timestamp, not as text: quote it",
        ),
        (GOOD + f"description: {'9' * 5000}\n", "suite.yaml: malformed YAML: Exceeds the limit"),
        ("[" * 5000, "suite.yaml: malformed YAML"),
        ("name: good\n", "suite.yaml:1: benchmarks: a suite needs at least one benchmark"),
    ],
)
def test_a_file_that_is_not_a_suite_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert refused(tmp_path, text).startswith(expected)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UsageError, match=r"not UTF-8: .* at byte 9"):
        load_suite(tmp_path / "suite.yaml")


ALIASES = "x:\n  a0: &a0 [1]\n" + "".join(
    f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MATRIX = f"[{', '.join(map(str, range(1, 101)))}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ALIASES + GOOD, "1: more than 50,000 nodes, aliases included"),
        (GOOD + f"x: [{'1,' * 60_000}]\n", "18: more than 50,000 nodes, aliases included"),
        (GOOD + f"description: {'x' * 10**8}\n", " larger than 1,048,576 bytes"),
        (GOOD + f"description: {'x' * 10**5}\n", "18: a text of more than 65,536 characters"),
        (
            GOOD.replace("batch_size: 4", f"batch_size: {MATRIX}").replace("0.0", MATRIX),
            "7: adapters.ok: 10,000 variants; at most 5,000",
        ),
        (
            GOOD.replace("  ok:", "".join(f"  a{i}: {{adapter: yolo}}\n" for i in range(20_000)) + "  ok:"),
            "12503: more than 50,000 nodes, aliases included",
        ),
        (
            GOOD.replace("batch_size: 4", f"batch_size: {MATRIX}").replace("0.0", f"{MATRIX[:150]}51]")
            + "  more: {dataset: phrases, adapters: [ok], metrics: [bleu]}\n",
            "18: benchmarks.more: more than 5,000 trials up to this benchmark",
        ),
    ],
)
def test_a_suite_that_would_take_for_ever_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert refused(tmp_path, text).startswith(f"suite.yaml:{expected}")


def test_an_adapter_for_another_task_is_refused(tmp_path: Path) -> None:
    message = refused(
        tmp_path, GOOD.replace("fake-translation", "fake-detection").replace("delay: 0.0", "{}")
    )
    assert (
        "suite.yaml:7: adapters.ok: adapter 'fake-detection' is for detection, but benchmark 'words' is for translation"
        in message
    )


def test_a_data_set_of_several_tasks_requires_a_task(tmp_path: Path) -> None:
    message = refused(tmp_path, GOOD.replace("dataset: few", "dataset: scenes"))
    assert message.startswith("suite.yaml:13: benchmarks.words: 'scenes' supports")


class TestFind:
    def test_a_missing_file_is_reported(self) -> None:
        with pytest.raises(UsageError, match=r"suite nowhere\.yaml: no such file"):
            find_suite("nowhere.yaml")

    def test_the_nearest_shipped_suite_is_suggested(self) -> None:
        with pytest.raises(UsageError, match="unknown suite 'quickstar'; did you mean 'quickstart'"):
            find_suite("quickstar")

    def test_shipped_suites_load(self) -> None:
        for path in shipped_suites().values():
            assert load_suite(path).suite.benchmarks


class TestSet:
    def test_a_value_is_yaml_and_may_be_a_matrix(self, tmp_path: Path) -> None:
        names = planned(tmp_path, GOOD, ["adapters.ok.batch_size=[1, 8]"])
        assert names == ["words/ok[batch_size=1]", "words/ok[batch_size=8]"]

    def test_sections_and_options_that_the_file_lacks_can_be_set(self, tmp_path: Path) -> None:
        text = GOOD.replace("    options:\n      delay: 0.0\n", "")
        (tmp_path / "suite.yaml").write_text(text)
        loaded = load_suite(tmp_path / "suite.yaml", ["speed.profile=ci", "adapters.ok.options.marker=x"])
        assert loaded.suite.speed.profile == "ci"
        assert loaded.suite.adapters["ok"].options == {"marker": "x"}

    def test_entries_of_an_included_suite_can_be_set(self, tmp_path: Path) -> None:
        (tmp_path / "base.yaml").write_text(GOOD)
        (tmp_path / "suite.yaml").write_text("name: outer\ninclude: [base.yaml]\n")
        loaded = load_suite(tmp_path / "suite.yaml", ["adapters.ok.batch_size=2"])
        assert loaded.suite.adapters["ok"].batch_size == 2

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("adapters.ok.batch_size", "expected KEY=VALUE"),
            ("=3", "expected KEY=VALUE"),
            ("adapters.okay.batch_size=3", "adapters has no section 'okay'; did you mean 'ok'?"),
            ("adapters.ok.batch_size=[1", "the value is not YAML"),
            ("adapters.ok.options.delay=yes", "yes is read as bool, not as text: quote it"),
            ("adapters.ok.batch_sise=3", "unknown key 'batch_sise'; did you mean 'batch_size'?"),
            ("speed.profile=fast", "speed.profile: unknown value 'fast'"),
            ("include=[x.yaml]", "includes are read before overrides and cannot be set"),
        ],
    )
    def test_a_wrong_override_is_reported(self, tmp_path: Path, override: str, expected: str) -> None:
        (tmp_path / "suite.yaml").write_text(GOOD)
        with pytest.raises(UsageError) as caught:
            load_suite(tmp_path / "suite.yaml", [override])
        assert expected in str(caught.value)


class TestInclude:
    def write(self, folder: Path, name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def test_entries_are_merged_and_a_file_may_be_included_twice(self, tmp_path: Path) -> None:
        self.write(tmp_path, "base.yaml", GOOD)
        for name in ("left", "right"):
            self.write(tmp_path, f"{name}.yaml", f"name: {name}\ninclude: [base.yaml]\n")
        top = self.write(tmp_path, "top.yaml", "name: top\ninclude: [left.yaml, right.yaml]\n")
        assert [trial.name for trial in plan(load_suite(top)).trials] == ["words/ok"]

    def test_a_circular_include_is_refused(self, tmp_path: Path) -> None:
        self.write(tmp_path, "a.yaml", "name: a\ninclude: [b.yaml]\n")
        self.write(tmp_path, "b.yaml", "name: b\ninclude: [a.yaml]\n")
        with pytest.raises(UsageError, match=r"a\.yaml: includes itself through a\.yaml → b\.yaml"):
            load_suite(tmp_path / "a.yaml")

    def test_a_missing_include_is_reported_with_its_line(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "a.yaml", "name: a\ninclude:\n  - gone.yaml\n")
        with pytest.raises(UsageError, match=r"a\.yaml:3: include: gone\.yaml: no such file"):
            load_suite(path)

    def test_conflicting_definitions_of_a_name_are_refused(self, tmp_path: Path) -> None:
        self.write(tmp_path, "base.yaml", GOOD)
        other = "name: top\ninclude: [base.yaml]\nadapters:\n  ok: {adapter: fake-detection}\n"
        with pytest.raises(UsageError, match=r"base\.yaml:7: adapters\.ok: defined differently in top"):
            load_suite(self.write(tmp_path, "top.yaml", other))

    def test_a_mistake_in_an_included_suite_is_located_there(self, tmp_path: Path) -> None:
        self.write(tmp_path, "base.yaml", GOOD.replace("[bleu]", "[blue]"))
        path = self.write(tmp_path, "top.yaml", "name: top\ninclude: [base.yaml]\n")
        with pytest.raises(UsageError, match=r"base\.yaml:16: benchmarks\.words\.metrics\.0: unknown metric"):
            plan(load_suite(path))

    def test_speed_settings_are_inherited_unless_overridden(self, tmp_path: Path) -> None:
        self.write(tmp_path, "base.yaml", GOOD + "speed: {profile: ci}\n")
        top = self.write(tmp_path, "top.yaml", "name: top\ninclude: [base.yaml]\n")
        assert load_suite(top).suite.speed.profile == "ci"
        top.write_text("name: top\ninclude: [base.yaml]\nspeed: {profile: release}\n")
        assert load_suite(top).suite.speed.profile == "release"


class TestPaths:
    """Options that are paths, such as the directory of `gettext`."""

    SUITE = GOOD.replace("dataset: phrases", "dataset: gettext").replace(
        "{size: 20}", "{{language: de, directory: {}}}"
    )

    def suite(self, directory: str, root: str | None = None) -> str:
        return self.SUITE.format(directory) + (f"data_root: {root}\n" if root else "")

    @pytest.mark.parametrize(
        ("changes", "where"),
        [
            ({"directory": "'${HARNESS_TEST_ROOT}/x'"}, "suite.yaml:5: datasets.few.options"),
            ({"directory": "x", "root": "${HARNESS_TEST_ROOT}"}, "suite.yaml:18: data_root"),
            (
                {"directory": "x", "checkpoint": "${HARNESS_TEST_ROOT}/w.pth"},
                "suite.yaml:9: adapters.ok.checkpoint",
            ),
        ],
    )
    def test_an_unset_environment_variable_makes_its_benchmark_unavailable(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], where: str
    ) -> None:
        monkeypatch.delenv("HARNESS_TEST_ROOT", raising=False)
        text = self.suite(changes["directory"], changes.get("root"))
        if "checkpoint" in changes:
            text = text.replace("    batch_size: 4\n", f"    checkpoint: {changes['checkpoint']}\n")
        with pytest.raises(UnavailableError) as caught:
            planned(tmp_path, text)
        message = str(caught.value).replace(f"{tmp_path}/", "")
        assert message.startswith(f"{where}: environment variable HARNESS_TEST_ROOT is not set")
        text = text.replace("    split: test\n", "    when_unavailable: skip\n")
        assert planned(tmp_path, text) == []

    @pytest.mark.parametrize("escape", ["../other", "/etc", "a/../../other", "'${HARNESS_TEST_ROOT}'"])
    def test_a_path_may_not_leave_the_data_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, escape: str
    ) -> None:
        monkeypatch.setenv("HARNESS_TEST_ROOT", "/somewhere/else")
        message = refused(tmp_path, self.suite(escape, "data"))
        assert message.startswith("suite.yaml:5: datasets.few.options.directory: path '")
        assert "leaves the data root" in message

    def test_a_symbolic_link_may_not_leave_the_data_root(self, tmp_path: Path) -> None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "link").symlink_to("/etc")
        assert "leaves the data root" in refused(tmp_path, self.suite("link", "data"))

    def test_a_path_that_is_not_text_is_refused(self, tmp_path: Path) -> None:
        assert "datasets.few.options.directory: Input is not a valid path" in refused(
            tmp_path, self.suite("5", "data")
        )

    def test_a_data_root_is_relative_to_the_file_that_sets_it(self, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        (inner / "base.yaml").write_text(self.suite("../x", "data"))
        (tmp_path / "top.yaml").write_text("name: top\ninclude: [inner/base.yaml]\n")
        with pytest.raises(UsageError, match=f"leaves the data root {inner / 'data'}$"):
            plan(load_suite(tmp_path / "top.yaml"))


def test_shipped_and_small_suites_satisfy_the_published_json_schema() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for text in [GOOD, *(path.read_text() for path in shipped_suites().values())]:
        validator.validate(yaml.safe_load(text))
    assert not validator.is_valid(yaml.safe_load(GOOD.replace("batch_size: 4", "batch_sise: 4")))


def test_the_error_of_an_override_names_the_override_not_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: s\nadapters:\n  y: {adapter: yolo}\n")
    with pytest.raises(UsageError) as caught:
        load_suite(path, ["adapters.y.batch_size=x"])
    assert str(caught.value).startswith("--set adapters.y.batch_size=x: adapters.y.batch_size: ")
