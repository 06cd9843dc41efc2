"""Two versions timed in turns: their own code and suites, errors, records, reports and exit codes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch  # noqa: F401  (forked children then have it, too)
from sample_results import document as sample_results
from small_suite import document, planned, write
from typer.testing import CliRunner
from whole_page import whole

from harness import environment
from harness.cli.app import app
from harness.driver.baseline import Version, revision_of_run, unpacked
from harness.driver.gate import Calibration, calibration_path, comparisons_of, run_gate
from harness.driver.run import exit_code
from harness.driver.settings import RunSettings
from harness.driver.turns import SpeedComparison, compare_in_turns, open_version
from harness.errors import UsageError
from harness.files import write_record
from harness.rundir.records import RunFile
from harness.rundir.results import Results, RunRecord, Source, TurnsRecord
from harness.rundir.speed import turns_path
from harness.rundir.store import RunDirectory
from harness.scenarios.settings import PROFILES
from harness.stages.child import Child
from harness.suite.loading import load_suite
from harness.suite.plan import plan
from harness.task import Figure
from reports.ci.junit import to_junit
from reports.markdown import to_markdown
from reports.page.html import to_html
from reports.verdict import is_clean, verdict

MODEL = """
import time
from harness.adapter import TranslationAdapter
from harness.task import Translation

class Toy(TranslationAdapter):
    def load(self, checkpoint): pass
    def preprocess(self, samples): return list(samples)
    def forward(self, batch):
        time.sleep(SECONDS * len(batch))
        return batch
    def postprocess(self, raw, batch): return [Translation("x") for _ in batch]
"""
METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n",
    "entry_points.txt": "[harness.adapters]\ntoy = toy_model:Toy\n",
}


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def timed(**adapters: dict[str, Any]) -> dict[str, Any]:
    """Return a suite whose one benchmark is timed on two samples."""
    suite = document(4, **{name: {"batch_size": 2, **entry} for name, entry in adapters.items()})
    suite["benchmarks"]["words"]["speed"] = ["offline"]
    return suite | {"speed": {"samples": 2, "threads": 1}}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a repository of an adapter that is ten times slower in its second commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for seconds in (0.002, 0.02):
        (folder / "toy_model.py").write_text(MODEL.replace("SECONDS", str(seconds)))
        write(folder, timed(model={"adapter": "toy"}))
        git(folder, "add", "--all")
        git(folder, "commit", "--quiet", "--message", "next")
    (folder / "toy-1.0.dist-info").mkdir()  # as an installation makes it; git does not track it
    for name, text in METADATA.items():
        (folder / "toy-1.0.dist-info" / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    return folder


def race(
    folder: Path,
    base: dict[str, Any],
    head: dict[str, Any],
    budget: float = 1e9,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, SpeedComparison]:
    """Compare two suites of fake adapters in turns; return the comparisons by variant."""
    versions = [
        Version(name, write(folder, suite, f"{name}.yaml"), ())
        for name, suite in (("base", base), ("head", head))
    ]
    trials = plan(load_suite(versions[1].suite)).trials
    comparisons = [SpeedComparison(trial, "offline", 0.05, family=len(trials)) for trial in trials]
    stored: list[SpeedComparison] = []
    compare_in_turns(versions, comparisons, None, budget, note, stored.append)
    assert sorted(map(id, stored)) == sorted(map(id, comparisons)), "each is stored once"
    return {comparison.trial.variant: comparison for comparison in comparisons}


@pytest.fixture
def one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge after a single pair, which must then be on one side of the limit."""
    monkeypatch.setattr("harness.compare.sequential.LOOKS", {1: 0.5})


class TestVersions:
    @pytest.mark.usefixtures("one_look")
    def test_each_runs_its_own_code_and_the_slower_one_is_found(self, repository: Path) -> None:
        suite = repository / "suite.yaml"
        [trial] = plan(load_suite(suite)).trials
        comparison = SpeedComparison(trial, "offline", 0.05)
        with unpacked("HEAD~1", suite, ()) as baseline:
            compare_in_turns(
                (baseline, Version("present", suite, ())), [comparison], None, 1e9, lambda _: None
            )
        assert comparison.judgement is not None and comparison.judgement.verdict == "regression"
        record = comparison.record(baseline.name)
        assert record.baseline == git(repository, "rev-parse", "HEAD~1")
        assert record.base is not None and record.base.value == pytest.approx(0.002, rel=0.5)
        assert record.head is not None and record.head.value == pytest.approx(0.02, rel=0.5)
        assert not baseline.suite.exists(), "nothing is left"
        assert git(repository, "status", "--porcelain") == "?? toy-1.0.dist-info/"

    def test_code_of_the_checkout_is_not_taken_for_the_baseline(self, repository: Path) -> None:
        (repository / "elsewhere").mkdir()
        git(repository, "mv", "toy_model.py", "elsewhere")
        git(repository, "commit", "--quiet", "--message", "moved")
        (repository / "toy_model.py").write_text(MODEL)
        with unpacked("HEAD", repository / "suite.yaml", ()) as baseline:
            files = {"toy": str(repository / "toy_model.py"), "harness": "/elsewhere/harness/__init__.py"}
            with pytest.raises(UsageError, match=r"'toy' is imported from .*, expected from the revision of"):
                baseline.check(files)
            tree = baseline.folders[0]
            baseline.check(files | {"toy": str(tree / "elsewhere/toy_model.py")})
            assert (tree / "toy_model.py").is_symlink(), "what git does not track is the checkout's"
            with pytest.raises(UsageError, match=r"'toy' is imported from"):
                baseline.check(files | {"toy": str(tree / "toy_model.py")})

    def test_libraries_inside_the_repository_may_be_shared_but_not_all_adapters(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("sys.prefix", str(repository / ".venv"))
        tree = repository.with_name("tree")
        baseline = Version("HEAD", tree / "suite.yaml", (), repository, (tree,))
        files = {"library": str(repository / ".venv/library.py"), "harness": "/elsewhere/harness.py"}
        baseline.check(files | {"toy": str(tree / "toy_model.py")})
        with pytest.raises(UsageError, match=r"'library' is imported from"):
            baseline.check(files)

    def test_a_suite_in_a_folder_that_git_does_not_track_leaves_nothing_there(self, repository: Path) -> None:
        (repository / "mine").mkdir()
        suite = write(repository / "mine", timed(model={}))
        with pytest.raises(UsageError, match=r"baseline HEAD: the folder of .* is not in the revision"):
            unpacked("HEAD", suite, (), resolved=suite).__enter__()
        assert [*(repository / "mine").iterdir()] == [suite]

    def test_mistakes_name_what_was_expected(self, repository: Path, tmp_path: Path) -> None:
        suite = repository / "suite.yaml"
        cases = {"nowhere": suite, "--all": suite, "HEAD": write(tmp_path, timed(model={}))}
        for revision, path in cases.items():
            with pytest.raises(UsageError, match=rf"baseline {revision}: no revision of a repository"):
                unpacked(revision, path, ()).__enter__()
        late = write(repository, timed(model={"adapter": "toy"}), "late.yaml")
        with unpacked("HEAD", late, ()) as baseline:
            assert baseline.suite.read_text() == late.read_text(), "what git does not track is the checkout's"
        git(repository, "add", "late.yaml")
        git(repository, "commit", "--quiet", "--message", "late")
        with pytest.raises(UsageError, match=r"baseline HEAD~1: has no suite late\.yaml"):
            unpacked("HEAD~1", late, ()).__enter__()

    @pytest.mark.usefixtures("forked")
    def test_a_suite_that_cannot_be_planned_is_an_error_of_its_version(self, tmp_path: Path) -> None:
        suite = write(tmp_path, timed(model={"batch_size": 0}))
        with Child() as child, pytest.raises(UsageError, match=r"0123456789ab: .*batch_size"):
            open_version(Version("0123456789abcdef", suite, ()), child, ["words/model"], None)

    @pytest.mark.parametrize(
        ("dirty", "kind", "problem"),
        [
            (True, "suite", "with uncommitted changes"),
            (True, "package", "with uncommitted changes"),
            (False, "suite", ""),
        ],
    )
    def test_a_run_is_a_baseline_only_if_its_code_is_committed(
        self, dirty: bool, kind: Any, problem: str, tmp_path: Path
    ) -> None:
        run = RunRecord.model_validate(sample_results()["run"])
        suite = Source(kind="suite", name="s.yaml", git_revision="abc")
        sources = [suite, Source(kind=kind, name="x", git_dirty=dirty)]
        run = run.model_copy(update={"sources": sources, "git_dirty": True})
        record = RunFile(schema="harness-run/1", suite="s", description="", run=run, trials=(), skipped=())
        write_record(tmp_path / "run.json", record)
        (tmp_path / "suite.yaml").write_text("name: s\n")
        if problem:
            with pytest.raises(UsageError, match=problem):
                revision_of_run(tmp_path)
        else:
            assert revision_of_run(tmp_path) == "abc"
        with pytest.raises(UsageError, match="not a run directory"):
            revision_of_run(tmp_path / "nothing")


@pytest.mark.usefixtures("forked", "one_look")
class TestComparisons:
    def test_an_adapter_that_dies_hurts_its_own_comparison_alone(self, tmp_path: Path) -> None:
        base = timed(dies={"options": {"exit_at": 0}}, fast={"options": {"delay": 0.002}})
        head = timed(dies={}, fast={"options": {"delay": 0.02}}, new={})
        comparisons = race(tmp_path, base, head)
        dies, fast, new = (comparisons[name].record("base") for name in ("dies", "fast", "new"))
        assert (dies.verdict, dies.failed, dies.pairs) == ("incomparable", True, 0)
        assert "ended with exit code 1" in dies.reason
        assert fast.verdict == "inconclusive", "one pair proves nothing among three comparisons"
        assert fast.slowdown is not None and fast.slowdown.value == pytest.approx(9, rel=0.5)
        assert (new.verdict, new.failed) == ("incomparable", False)
        assert "no such trial" in new.reason

    def test_other_conditions_are_not_compared(self, tmp_path: Path) -> None:
        base, head = timed(model={}), timed(model={"batch_size": 4})
        judgement = race(tmp_path, base, head)["model"].judgement
        assert judgement is not None
        assert (judgement.verdict, judgement.reason) == ("incomparable", "batch size differs: 2 → 4")

    def test_other_samples_are_not_compared(self, tmp_path: Path) -> None:
        base, head = timed(model={}), timed(model={})
        base["datasets"]["few"]["options"]["size"] = 6
        judgement = race(tmp_path, base, head)["model"].judgement
        assert judgement is not None and judgement.reason.startswith("data set differs: ")

    def test_a_version_that_cannot_start_leaves_no_comparison_undecided(self, tmp_path: Path) -> None:
        base, head = timed(model={}), timed(model={})
        base["benchmarks"]["words"]["metrics"] = ["blue"]
        comparison = race(tmp_path, base, head)["model"]
        assert comparison.failed and comparison.judgement is not None
        assert "did you mean 'bleu'" in comparison.judgement.reason

    def test_rules_and_claims_about_other_benchmarks_do_not_hinder(self, tmp_path: Path) -> None:
        suite = timed(model={})
        suite["benchmarks"]["silent"] = suite["benchmarks"]["words"] | {"speed": []}
        suite["gate"] = [{"trials": "silent/*", "max_drop": 0.5}]
        assert not race(tmp_path, suite, suite)["model"].failed

    def test_after_a_failure_the_budget_holds_for_the_comparisons_that_follow(self, tmp_path: Path) -> None:
        suite = timed(dies={"options": {"exit_at": 0}}, model={})
        comparisons = race(tmp_path, suite, suite, budget=0)
        assert comparisons["dies"].failed
        judgement = comparisons["model"].judgement
        assert judgement is not None and judgement.reason == "the time ended before its first pair"

    def test_an_edit_while_pairs_are_timed_is_noticed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harness.compare.sequential.LOOKS", {2: 0.25})

        def edit(line: str) -> None:
            if "pair 2 " in line:
                write(tmp_path, timed(model={"batch_size": 4}), "head.yaml")

        comparison = race(tmp_path, timed(model={}), timed(model={}), note=edit)["model"]
        assert comparison.failed and comparison.pairs == 1 and comparison.judgement is not None
        assert "changed while the versions were timed" in comparison.judgement.reason

    def test_the_raw_times_of_each_process_are_kept(self, tmp_path: Path) -> None:
        comparison = race(tmp_path, timed(model={}), timed(model={}))["model"]
        raw = comparison.raw(0, comparison.timings[0], "key")
        assert (raw.environment, raw.batch_size, raw.settings.effective_threads) == ("key", 2, 1)
        assert len(raw.processes) == comparison.pairs == 1
        [seconds] = raw.seconds_by_process()
        figure = comparison.record("base").base
        assert figure is not None and figure.value == seconds > 0


def test_a_comparison_without_a_pair_is_inconclusive_when_the_time_ends(tmp_path: Path) -> None:
    [trial] = planned(tmp_path, timed(model={})).trials
    comparison = SpeedComparison(trial, "offline", 0.05)
    comparison.judge(last=True)
    assert comparison.record("base").verdict == "inconclusive"


def test_the_budget_ends_the_comparison(tmp_path: Path, forked: None) -> None:
    comparison = race(tmp_path, timed(model={}), timed(model={}), budget=0)["model"]
    assert comparison.pairs == 1 and comparison.judgement is not None
    assert comparison.judgement.verdict == "inconclusive"


def test_trials_with_the_same_work_share_the_strictest_blocking_rule(tmp_path: Path) -> None:
    suite = timed(model={"batch_size": [1, 2, 4]})
    suite["benchmarks"]["words"]["speed"] = ["single-stream"]
    suite["speed"]["samples"] = 4
    speed = {"speed": "single-stream"}
    suite["gate"] = [
        {"trials": "*batch_size=1*", "max_slowdown": 0.01, "tier": "advisory", **speed},
        {"trials": "*batch_size=2*", "max_slowdown": 0.2, **speed},
        {"trials": "*batch_size=4*", "max_slowdown": 0.1, **speed},
    ]
    loaded = load_suite(write(tmp_path, suite))
    [comparison] = comparisons_of(loaded, plan(loaded).trials, None)
    assert (comparison.limit, comparison.decides, comparison.family) == (0.1, True, 1)
    suite["speed"]["samples"] = 3
    loaded = load_suite(write(tmp_path, suite))
    assert len(comparisons_of(loaded, plan(loaded).trials, None)) == 2, "3 samples, or 4 in whole batches"


def test_a_gate_without_complete_trials_removes_the_comparisons_of_earlier_runs(tmp_path: Path) -> None:
    loaded = load_suite(write(tmp_path, timed(model={})))
    directory = RunDirectory(tmp_path / "run")
    path = turns_path(directory.trial("another").path, "offline")
    directory.trial("another").write_record(path, TurnsRecord(baseline="a", verdict="pass", reason=""))
    baseline = Version("base", loaded.path, ())
    run_gate(directory, loaded, plan(loaded).trials, baseline, RunSettings(tmp_path, ""), lambda _: None)
    assert not path.exists()


class TestCommand:
    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    def test_a_cluster_is_refused_before_anything_runs(self, tmp_path: Path) -> None:
        path = write(tmp_path, timed(model={}))
        done = self.run(
            "run", path, "--out", tmp_path / "run", "--address", "x", "--baseline-checkout", "HEAD"
        )
        assert (done.exit_code, (tmp_path / "run").exists()) == (2, False)
        assert "on this machine only" in done.stderr

    def test_a_suite_without_speed_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, document(4))
        done = self.run(
            *("run", path, "--out", tmp_path / "run", "--executor", "inline", "--baseline-checkout", "HEAD")
        )
        assert (done.exit_code, (tmp_path / "run").exists()) == (2, False)
        assert "no trial has a scenario that is timed in turns (offline or single-stream)" in done.stderr

    def test_two_baselines_are_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, timed(model={}))
        options = ["--executor", "inline", "--baseline-checkout", "HEAD", "--baseline-run", tmp_path]
        done = self.run("run", path, "--out", tmp_path / "run", *options)
        assert (done.exit_code, (tmp_path / "run").exists()) == (2, False)
        assert "give either --baseline-checkout or --baseline-run" in done.stderr

    @pytest.mark.slow
    def test_a_run_records_the_verdict_and_calibrate_what_it_resolves(
        self, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harness.compare.sequential.LOOKS", {1: 0.5})
        out, suite = tmp_path / "run", repository / "suite.yaml"
        options = ["run", suite, "--executor", "inline", "--no-sync", "--out", out]
        done = self.run(*options, "--baseline-checkout", "HEAD~1")
        assert done.exit_code == 1, done.stderr
        assert "regression: slower by more than 2.5%" in done.stdout
        [trial] = json.loads((out / "results.json").read_text())["trials"]
        record = trial["turns"]["offline"]
        assert (record["verdict"], record["pairs"]) == ("regression", 1)
        folder = out / "trials" / trial["id"] / "turns"
        assert {path.name for path in folder.iterdir()} == {
            *("offline.json", "offline-baseline.json", "offline-present.json")
        }
        assert self.run("verify", out).exit_code == 0
        assert self.run(*options, "--baseline-run", out).exit_code == 0, "against its own revision"
        assert self.run(*options).exit_code == 0
        assert not list(folder.iterdir()), "without a baseline, the comparison of the earlier run is removed"
        done = self.run("calibrate", suite, "--repeats", 2)
        assert done.exit_code == 0, done.stderr
        assert "offline: 95% of the differences found are within ±" in done.stdout
        assert calibration_path().is_file()


class TestCalibration:
    def test_resolution_is_a_high_quantile_of_the_differences(self) -> None:
        hardware = environment.describe().hardware
        differences = {"offline": [0.001, -0.02, 0.01]}
        calibration = Calibration(
            host="h", hardware=hardware, finished="", load=(0, 0, 0), differences=differences
        )
        assert calibration.half_width("offline") == 0.02
        assert calibration.half_width("single-stream") == 0.0

    @pytest.mark.usefixtures("forked", "one_look")
    def test_a_trial_that_cannot_be_timed_stores_nothing(self, tmp_path: Path) -> None:
        calibration_path().unlink(missing_ok=True)
        suite = write(tmp_path, timed(dies={"options": {"exit_at": 0}}))
        done = CliRunner().invoke(app, ["calibrate", str(suite), "--repeats", "1"])
        assert (done.exit_code, calibration_path().exists()) == (3, False)
        assert "no calibration was stored" in done.stderr

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        calibration_path().parent.mkdir(parents=True, exist_ok=True)
        calibration_path().write_text("{")
        try:
            suite = write(tmp_path, timed(model={}))
            done = CliRunner().invoke(
                app,
                [
                    "run",
                    str(suite),
                    "--executor",
                    "inline",
                    "--baseline-checkout",
                    "HEAD",
                    "--out",
                    str(tmp_path / "o"),
                ],
            )
            assert done.exit_code == 2
            assert str(calibration_path()) in done.stderr and "harness calibrate" in done.stderr
        finally:
            calibration_path().unlink()


def results_with(**records: dict[str, Any]) -> Results:
    """Return complete results whose first trial was compared in turns, by scenario."""
    content = sample_results()
    content["trials"] = content["trials"][:1]
    shared = {"baseline": "abcdef0123456789", "reason": "because", "pairs": 8}
    content["trials"][0]["turns"] = {name: shared | record for name, record in records.items()}
    return Results.model_validate(content)


REGRESSION = {"verdict": "regression", "slowdown": Figure(0.1, 0.05, 0.15, 8, "of the time per sample", "s")}


class TestReports:
    def test_exit_codes(self) -> None:
        codes = {
            "regression": exit_code(results_with(offline=REGRESSION)),
            "advisory": exit_code(results_with(offline=REGRESSION | {"decides": False})),
            "failed": exit_code(results_with(offline={"verdict": "incomparable", "failed": True})),
            "inconclusive": exit_code(results_with(offline={"verdict": "inconclusive"})),
            "strict": exit_code(results_with(offline={"verdict": "inconclusive"}), strict=True),
            "pass": exit_code(results_with(offline={"verdict": "pass"}), strict=True),
        }
        expected = {"regression": 1, "advisory": 0, "failed": 3, "inconclusive": 0, "strict": 4, "pass": 0}
        assert codes == expected

    def test_a_process_that_died_is_a_failure_under_smoke_too(self) -> None:
        results = results_with()
        scenario = results.trials[0].speed["offline"]
        needed = PROFILES["smoke"].processes
        for processes, code in ((needed, 0), (needed - 1, 3)):
            update = {"profile": "smoke", "valid": False, "processes": processes}
            changed = {"offline": scenario.model_copy(update=update)}
            trial = results.trials[0].model_copy(update={"speed": changed})
            assert exit_code(results.model_copy(update={"trials": [trial]})) == code

    def test_every_report_shows_the_verdict(self) -> None:
        results = results_with(offline=REGRESSION)
        assert "; 1 comparison in turns with abcdef012345: regression" in verdict(results)
        assert not is_clean(results)
        assert "**regression** " in to_markdown(results)
        assert "+10.0%" in to_markdown(results)
        assert '<failure message="regression: because' in to_junit(results)
        page = whole(to_html(results))
        assert '<strong class="regression">regression</strong>: offline time per sample' in page
        assert page.count("abcdef012345") >= 2
