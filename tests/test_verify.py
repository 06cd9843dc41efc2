"""Damage of a run directory is named, verified figures are computed again, and the same command mends it."""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_suite import document, figures, run_suite
from typer.testing import CliRunner

from harness.cli.app import app
from harness.datasets.phrases.phrases import Phrases, PhrasesOptions
from harness.driver.run import exit_code
from harness.driver.verify import verify
from harness.environment import Environment
from harness.errors import InfrastructureError, UnavailableError, UsageError
from harness.files import read_json, read_record
from harness.rundir.results import Results
from harness.rundir.store import RunDirectory, TrialDirectory, read_run
from harness.task import Detections, Translation
from harness.tracking.entries import trial_entry
from reports.markdown import trial_to_markdown

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
import faults

SUITE = document(12, ok={"batch_size": 4}, worse={"batch_size": 4, "options": {"drop": 2}})
SUITE["benchmarks"]["timed"] = SUITE["benchmarks"]["words"] | {"adapters": ["ok"], "speed": ["offline"]}
SUITE["benchmarks"]["words"]["slices"] = "table.csv"
SUITE["claims"] = {"better": {"claim": "ok.bleu > worse.bleu", "benchmark": "words"}}
SUITE["speed"] = {"samples": 4, "threads": 1}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("sound")
    data = Phrases(PhrasesOptions(size=12, max_tokens=12), "test", "translation")
    rows = [f"{data.sample_id(index)},{'law' if index < 6 else 'news'}" for index in range(12)]
    (folder / "table.csv").write_text("\n".join(["id,domain", *rows]) + "\n")
    return folder, run_suite(folder, SUITE, shard_size=4)


@pytest.fixture
def folder(sound: tuple[Path, Results], tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound[0], tmp_path / "copy"))


def trial_dir(folder: Path) -> TrialDirectory:
    run = RunDirectory(folder / "run")
    return run.trial(read_json(run.run_file)["trials"][0]["id"])


def harness(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout


def test_a_sound_run_has_all_figures_of_its_evidence(sound: tuple[Path, Results]) -> None:
    path, results = sound[0] / "run", sound[1]
    verification = verify(path)
    assert verification.ok, verification
    assert verification.figures == sum(len(trial.metrics) for trial in results.trials[:2]) == 4
    assert harness("verify", path) == (0, f"{path}: as it was written; 4 accuracy figures recomputed\n")
    assert read_run(path) == results


def test_the_users_suite_and_package_are_recorded(sound: tuple[Path, Results]) -> None:
    sources = [(source.kind, source.name, source.version) for source in sound[1].run.sources]
    assert sources == [("suite", str(sound[0] / "suite.yaml"), None), ("package", "fake-adapters", "1.0")]


def scale_value(content: Any) -> None:
    content["bleu"]["metrics"]["bleu"]["value"] *= 1.01


def scale_bound(content: Any) -> None:
    content["chrf"]["metrics"]["chrf"]["low"] *= 1.01


def scale_times(content: Any) -> None:
    for window in content["processes"][0]["windows"]:
        window[2] *= 1.01


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        ("metrics.json", scale_value, "words/ok: metrics.json: bleu.metrics.bleu.value: stored "),
        ("metrics.json", scale_bound, "words/ok: metrics.json: chrf.metrics.chrf.low: stored "),
        ("speed/offline.json", scale_times, "results.json: trials.2.speed.offline.throughput.value: stored "),
    ],
)
def test_a_wrong_value_under_a_right_digest_differs_from_the_recomputed_one(
    folder: Path, name: str, change: Callable[[Any], None], key: str
) -> None:
    directory = trial_dir(folder)
    content = json.loads((directory.path / name).read_text())
    change(content)
    directory.digests.write(directory.path / name, json.dumps(content).encode())
    verification = verify(folder / "run")
    assert verification.damaged == []
    assert [line for line in verification.different if line.startswith(key)], verification
    assert harness("verify", folder / "run")[0] == 3


def worsen_slice(content: Any) -> None:
    content["words"]["slices"][0]["figures"]["ok"]["value"] += 0.5


def turn_verdict(content: Any) -> None:
    content[0]["verdict"] = "refuted" if content[0]["verdict"] != "refuted" else "supported"


@pytest.mark.parametrize(
    ("name", "change", "key"),
    [
        ("slices.json", worsen_slice, "slices.json: words.slices.0.figures.ok.value: stored "),
        ("claims.json", turn_verdict, "claims.json: 0.verdict: stored "),
    ],
)
def test_a_wrong_slice_or_claim_under_a_right_digest_differs_from_the_recomputed_one(
    folder: Path, name: str, change: Callable[[Any], None], key: str
) -> None:
    run = RunDirectory(folder / "run")
    content = read_json(run.path / name)
    change(content)
    run.digests.write(run.path / name, json.dumps(content).encode())
    different = verify(run.path).different
    assert [line for line in different if line.startswith(key)], different


def test_a_wrong_analysis_under_a_right_digest_differs_from_the_recomputed_one(folder: Path) -> None:
    directory = trial_dir(folder)
    content = read_json(directory.path / "analysis.json")
    content["analysis"]["rates"]["exact_match"]["value"] = 0.5
    directory.digests.write(directory.path / "analysis.json", json.dumps(content).encode())
    (line,) = verify(folder / "run").different
    assert line.startswith(
        "words/ok: analysis.json: analysis.rates.exact_match.value: stored 0.5, recomputed "
    )


def test_a_file_that_is_removed_with_its_digest_is_missed(folder: Path) -> None:
    """Nothing in SHA256SUMS says that it was there, so the files of a complete run must be known."""
    sound = folder / "run"
    files = [sound / name for name in faults.stored_files(sound)]
    without_digest = {"SHA256SUMS"}
    assert {"analysis.json", "samples.json", "samples.npz", "offline.json"} <= {file.name for file in files}
    for file in files:
        if file.name in without_digest:
            continue
        damaged = Path(shutil.copytree(sound, folder / "damaged"))
        run = RunDirectory(damaged)
        name = file.relative_to(sound)
        owner = run.trial(name.parts[1]) if name.parts[0] == "trials" else run
        owner.digests.remove(damaged / name)
        assert not verify(damaged).ok, name
        shutil.rmtree(damaged)


def test_a_trial_that_the_run_does_not_list_is_named(folder: Path) -> None:
    run_suite(folder, document(12, ok={"batch_size": 4}, worse={"batch_size": 4}), shard_size=4)
    verification = verify(folder / "run")
    (name,) = verification.unlisted
    assert verification.ok and (folder / "run" / name / "trial.json").exists()
    code, printed = harness("verify", folder / "run")
    assert (code, f"{name} is not counted: run.json does not list it" in printed) == (0, True), printed


def test_absurd_timings_and_impossible_names_are_findings(folder: Path) -> None:
    """And never internal errors, even if the digests were adjusted."""
    directory = trial_dir(folder)
    timings = read_json(directory.path / "speed" / "offline.json")
    timings["processes"][0]["windows"] = []
    directory.digests.write(directory.path / "speed" / "offline.json", json.dumps(timings).encode())
    (line,) = verify(folder / "run").not_recomputed
    assert "division by zero" in line
    sums = RunDirectory(folder / "run").digests.file
    sums.write_text(f"{sums.read_text()}{'0' * 64}  {'x' * 300}\n")
    assert verify(folder / "run").damaged == [f"{'x' * 300} is missing"]


def test_statistics_that_claim_more_numbers_than_memory_holds_are_called_damaged(folder: Path) -> None:
    directory, content = trial_dir(folder), io.BytesIO()
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("counts.npy", b"\x93NUMPY\x01\x00v\x00" + header)
    directory.digests.write(directory.statistics_path("bleu"), content.getvalue())
    with pytest.raises(InfrastructureError, match=r"bleu\.npz: damaged"):
        directory.read_statistics("bleu")


def test_predictions_beyond_the_last_sample_are_a_finding(folder: Path) -> None:
    predictions = trial_dir(folder).predictions
    extra, provenance = [Translation("extra")], predictions.provenance()[4, 8]
    predictions.write("translation", 12, ["extra"], extra, provenance)
    assert any("beyond the last sample" in line for line in verify(folder / "run").different)


def test_predictions_of_another_task_are_called_damaged(folder: Path) -> None:
    directory = trial_dir(folder)
    provenance = directory.predictions.provenance()[4, 8]
    ids = [sample for sample, _ in directory.predictions.read("translation")][4:8]
    boxes = Detections(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.zeros(1, np.int64))
    directory.predictions.write("detection", 4, ids, [boxes] * 4, provenance)
    assert any("00000004-00000008.parquet: damaged" in line for line in verify(folder / "run").not_recomputed)
    code, printed = harness("compare", folder / "run", "--baseline", folder / "run")
    assert code == 3, printed


def test_an_error_names_the_run_and_not_the_copy_that_is_computed_from(folder: Path) -> None:
    path = folder / "run" / "claims.json"
    path.unlink()
    path.mkdir()
    (line,) = verify(folder / "run").not_recomputed
    assert str(path) in line
    run = RunDirectory(folder / "run")
    directory = trial_dir(folder)
    directory.digests.write(directory.path / "speed" / "offline.json", b"{}")
    path.rmdir()
    (line,) = verify(run.path).not_recomputed
    assert str(directory.path / "speed" / "offline.json") in line, line


def test_slices_whose_table_is_gone_are_not_called_verified(folder: Path) -> None:
    run = RunDirectory(folder / "run")
    content = read_json(run.run_file)
    for trial in content["trials"]:
        trial["slices"] = trial["slices"] and str(folder / "nowhere.csv")
    run.digests.write(run.run_file, json.dumps(content).encode())
    verification = verify(run.path)
    (line,) = verification.not_recomputed
    assert "nowhere.csv" in line and not verification.ok


@pytest.mark.parametrize("name", ["pairs.json", "slices.json", "claims.json"])
def test_a_restricted_run_makes_a_damaged_file_of_all_variants_again(
    folder: Path, sound: tuple[Path, Results], name: str
) -> None:
    (folder / "run" / name).write_text("{}")
    results = run_noted(folder, [], only="words/worse")
    assert (results.pairs, results.slices, results.claims) == (
        sound[1].pairs,
        sound[1].slices,
        sound[1].claims,
    )
    assert results.claims[0].verdict != "not decided"


@pytest.mark.parametrize("name", ["SHA256SUMS", "trials", "pairs.json"])
def test_a_folder_in_place_of_a_file_is_named(folder: Path, name: str) -> None:
    """And a file in place of the folder `trials`."""
    path = folder / "run" / name
    if path.is_dir():
        shutil.rmtree(path)
        path.touch()
    else:
        path.unlink()
        path.mkdir()
    suite = ["run", folder / "suite.yaml", "--out", folder / "run", "--executor", "inline", "--no-sync"]
    for command in (suite, ["verify", folder / "run"], ["report", folder / "run"]):
        result = CliRunner().invoke(app, [str(argument) for argument in command])
        assert (result.exit_code, "internal error" in result.output) == (3, False), result.output
        assert str(path) in result.output or f"{name} is missing" in result.output


def test_edited_predictions_are_named_refused_and_made_again(
    folder: Path, sound: tuple[Path, Results]
) -> None:
    directory = trial_dir(folder)
    path = directory.predictions.path(4, 8)
    before = path.read_bytes()
    provenance = directory.predictions.provenance()[4, 8]
    other = TrialDirectory(folder / "elsewhere")
    ids = [sample for sample, _ in directory.predictions.read("translation")][4:8]
    other.predictions.write("translation", 4, ids, [Translation("edited")] * 4, provenance)
    shutil.copy(other.predictions.path(4, 8), path)
    name = path.relative_to(folder / "run")
    code, printed = harness("verify", folder / "run", "--json")
    (verification,) = json.loads(printed)
    assert (code, verification["damaged"]) == (3, [f"{name} changed since it was written"])
    assert any("metrics.json: bleu.metrics.bleu.value" in line for line in verification["different"])
    for command in (["report"], ["sync"], ["compare", "--baseline", sound[0] / "run"]):
        assert harness(command[0], folder / "run", *command[1:])[0] == 3, command
    notes: list[str] = []
    results = run_noted(folder, notes)
    changed = path.relative_to(directory.path)
    note = f"/ok: {changed} changed since it was written and is made again"
    assert [line for line in notes if line.endswith(note)]
    assert figures(results) == figures(sound[1])
    assert verify(folder / "run").ok
    assert path.read_bytes() != before, "another time of prediction"


def test_exchanged_folders_of_trials_are_noticed_and_removed(folder: Path) -> None:
    """Each folder is whole, but its figures are those of the other trial."""
    trials = read_json(folder / "run" / "run.json")["trials"][:2]
    first, second = (folder / "run" / "trials" / trial["id"] for trial in trials)
    first.rename(folder / "first")
    second.rename(first)
    (folder / "first").rename(second)
    assert "metrics.json is of another trial" in harness("verify", folder / "run")[1]
    assert harness("report", folder / "run")[0] == 3
    assert {damage.problem for damage in TrialDirectory(first).digests.mend()} == {"is of another trial"}
    assert not (first / "metrics.json").exists(), "the same run makes it again"


def test_a_trial_whose_digests_are_missing_is_refused(folder: Path) -> None:
    (trial_dir(folder).path / "SHA256SUMS").unlink()
    assert "trial.json has no digest in SHA256SUMS" in harness("verify", folder / "run")[1]
    assert harness("report", folder / "run")[0] == 3


def run_noted(folder: Path, notes: list[str], **settings: Any) -> Results:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.driver.progress.RunProgress.note", lambda self, line: notes.append(line))
        return run_suite(folder, SUITE, shard_size=4, **settings)


@pytest.mark.parametrize("removed", ["run.json", "TRIAL/trial.json", "TRIAL/speed/common.json", "suite.yaml"])
def test_a_file_that_is_removed_is_made_again(
    folder: Path, sound: tuple[Path, Results], removed: str
) -> None:
    path = folder / "run" / removed.replace("TRIAL", f"trials/{trial_dir(folder).path.name}")
    path.unlink()
    assert harness("report", folder / "run")[0] == 3
    results = run_noted(folder, [])
    assert (exit_code(results), figures(results)) == (0, figures(sound[1]))
    assert path.exists() and verify(folder / "run").ok
    assert results.trials[0].phases and results.trials[0].cost.peak_memory_bytes


def test_a_restricted_run_does_not_hide_damage_of_the_others(folder: Path) -> None:
    trial_dir(folder).metrics_file.write_text("{}")
    with pytest.raises(InfrastructureError, match=r"metrics.json changed .* without --only makes it again"):
        run_noted(folder, [], only="words/worse")
    run_noted(folder, [])
    (folder / "run" / "run.json").write_text("{}")
    with pytest.raises(InfrastructureError, match=r"run.json changed .* without --only makes it again"):
        run_noted(folder, [], only="words/worse")


@pytest.mark.parametrize("removed", ["SHA256SUMS", "TRIAL/SHA256SUMS", "TRIAL"])
def test_a_restricted_run_does_not_drop_the_others(folder: Path, removed: str) -> None:
    path = folder / "run" / removed.replace("TRIAL", f"trials/{trial_dir(folder).path.name}")
    path.unlink() if path.is_file() else shutil.rmtree(path)
    before = (folder / "run" / "results.json").read_bytes()
    with pytest.raises(InfrastructureError, match="without --only makes it again"):
        run_noted(folder, [], only="words/worse")
    assert (folder / "run" / "results.json").read_bytes() == before
    assert exit_code(run_noted(folder, [])) == 0
    assert verify(folder / "run").ok


def test_a_planned_timing_without_a_file_is_not_green(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restricted run keeps the record of the other trials, even if the code has another revision."""
    directory = trial_dir(folder)
    directory.digests.remove(directory.path / "speed" / "offline.json")
    monkeypatch.setattr("harness.environment.git_state", lambda: ("another revision", False))
    results = run_noted(folder, [], only="words/worse")
    scenario = results.trials[2].speed["offline"]
    assert scenario.reasons == ["not timed yet: speed/offline.json is missing"]
    assert (scenario.valid, exit_code(results)) == (False, 3)


def test_predictions_of_different_software_are_marked(folder: Path) -> None:
    directory, run = trial_dir(folder), RunDirectory(folder / "run")
    provenance = directory.predictions.provenance()[4, 8]
    here = read_record(run.path / "environments" / f"{provenance.environment}.json", Environment)
    assert here is not None
    other = here.model_copy(update={"packages": here.packages | {"pillow": "1.0"}})
    run.write_environment(other)
    rows = list(directory.predictions.read("translation"))[4:8]
    flags = provenance.flags.replace("cudnn.benchmark=False", "cudnn.benchmark=True")
    directory.predictions.write(
        "translation",
        4,
        [sample for sample, _ in rows],
        [prediction for _, prediction in rows],
        provenance.model_copy(update={"environment": other.key, "flags": flags}),
    )
    mixed, alike, _ = run_noted(folder, []).trials
    assert mixed.mixed == ["cudnn.benchmark False and True", f"pillow 1.0 and {here.packages['pillow']}"]
    assert alike.mixed == []
    assert harness("report", folder / "run")[0] == 0
    report = folder / "run" / "report"
    software = f"pillow 1.0 and {here.packages['pillow']}"
    assert software in (report / "index.html").read_text()
    texts = [(report / "summary.md").read_text(), trial_to_markdown(mixed, 9000)]
    results = read_run(run.path)
    assert all("made with different software: cudnn" in text for text in texts)
    assert software in trial_entry(results, mixed, "", {}, {}, "").tags["mixed"]


def test_figures_without_their_data_are_not_called_verified(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Phrases, *arguments: object) -> None:
        raise UnavailableError("the corpus is not here")

    monkeypatch.setattr(Phrases, "__init__", fail)
    verification = verify(folder / "run")
    assert (verification.damaged, verification.different, verification.figures) == ([], [], 0)
    assert [line.partition(": ")[0] for line in verification.not_recomputed] == [
        "words/ok",
        "words/worse",
        "UnavailableError",
    ]
    code, printed = harness("verify", folder / "run")
    assert (code, "not recomputed: words/ok: UnavailableError: the corpus is" in printed) == (3, True)


def test_another_directory_is_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a run directory"):
        verify(tmp_path)
    assert harness("verify", tmp_path)[0] == 2


@pytest.mark.parametrize(
    ("tries", "together"),
    [(30, 30), pytest.param(300, 10, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_no_flipped_bit_is_silent_and_all_are_mended(tmp_path: Path, tries: int, together: int) -> None:
    outcomes = faults.flip_bits(tmp_path, tries, seed=1, together=together)
    tried = outcomes["tried"]
    assert outcomes == {"tried": tried, "noticed": tried, "mended": tried, "silent": 0}
    assert tried >= tries * 0.9, "suite.yaml is not damaged together with run.json"
