"""The run directory: every file is complete, gaps are known, and batches do not depend on earlier runs."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_run import run_file
from small_suite import document, planned

from harness.errors import HarnessError, InfrastructureError, UsageError
from harness.files import read_json, write_json, write_record, write_text
from harness.rundir.prediction_shards import Range, ShardProvenance
from harness.rundir.results import read_results
from harness.rundir.store import RunDirectory, TrialDirectory
from harness.stages.shards import Work
from harness.task import Translation
from harness.trial import Trial


def write_shard(trial_dir: TrialDirectory, start: int, stop: int, environment: str = "here") -> None:
    ids = [f"test-{index}" for index in range(start, stop)]
    trial_dir.predictions.write(
        "translation",
        start,
        ids,
        [Translation(name) for name in ids],
        ShardProvenance(environment=environment),
    )


class TestShardsOnDisk:
    def test_missing_ranges_are_the_gaps_between_completed_ones(self, tmp_path: Path) -> None:
        trial_dir = TrialDirectory(tmp_path)
        assert trial_dir.predictions.missing_ranges(10) == [(0, 10)]
        write_shard(trial_dir, 4, 6)
        write_shard(trial_dir, 8, 10)
        assert trial_dir.predictions.completed_ranges() == [(4, 6), (8, 10)]
        assert trial_dir.predictions.missing_ranges(10) == [(0, 4), (6, 8)]
        write_shard(trial_dir, 0, 4)
        write_shard(trial_dir, 6, 8)
        assert trial_dir.predictions.missing_ranges(10) == []

    def test_predictions_are_read_in_sample_order(self, tmp_path: Path) -> None:
        trial_dir = TrialDirectory(tmp_path)
        for start in (100, 0, 50):  # numerical order: as text, "100" sorts before "50"
            write_shard(trial_dir, start, start + 50)
        assert [name for name, _ in trial_dir.predictions.read("translation")] == [
            f"test-{i}" for i in range(150)
        ]

    def test_shards_record_their_environment(self, tmp_path: Path) -> None:
        trial_dir = TrialDirectory(tmp_path)
        write_shard(trial_dir, 0, 2, "b")
        write_shard(trial_dir, 2, 4, "a")
        write_shard(trial_dir, 4, 6, "b")
        assert [shard.environment for shard in trial_dir.predictions.provenance().values()] == ["b", "a", "b"]

    def test_metadata_of_other_tools_are_ignored_and_wrong_provenance_names_the_file(
        self, tmp_path: Path
    ) -> None:
        trial_dir = TrialDirectory(tmp_path)
        write_shard(trial_dir, 0, 2)
        path = trial_dir.predictions.folder / "00000000-00000002.parquet"
        table = pq.read_table(path)
        pq.write_table(table.replace_schema_metadata({"pandas": "{}"}), path)
        assert [shard.environment for shard in trial_dir.predictions.provenance().values()] == ["unknown"]
        pq.write_table(table.replace_schema_metadata({"batch_size": "many"}), path)
        with pytest.raises(UsageError, match=r"00000000-00000002.parquet: batch_size: "):
            trial_dir.predictions.provenance()

    def test_temporary_files_of_a_killed_writer_are_ignored(self, tmp_path: Path) -> None:
        trial_dir = TrialDirectory(tmp_path)
        write_shard(trial_dir, 0, 2)
        folder = trial_dir.predictions.folder
        content = (folder / "00000000-00000002.parquet").read_bytes()
        (folder / ".00000002-00000004.parquet.4711").write_bytes(content[: len(content) // 2])
        assert trial_dir.predictions.missing_ranges(4) == [(2, 4)]
        assert len(list(trial_dir.predictions.read("translation"))) == 2
        assert [shard.environment for shard in trial_dir.predictions.provenance().values()] == ["here"]

    def test_the_error_names_a_damaged_shard(self, tmp_path: Path) -> None:
        trial_dir = TrialDirectory(tmp_path)
        write_shard(trial_dir, 0, 2)
        path = trial_dir.predictions.folder / "00000000-00000002.parquet"
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(
            InfrastructureError, match=r"00000000-00000002\.parquet: damaged .*run` makes it again"
        ):
            list(trial_dir.predictions.read("translation"))


class TestFiles:
    def test_a_failed_write_leaves_the_old_content(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "figures.json"
        write_json(path, {"value": 1})
        with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
            write_json(path, {"value": float("nan")})
        assert read_json(path) == {"value": 1}

    def test_an_interrupted_write_leaves_the_old_content(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "a.txt"
        write_text(path, "old")

        def die(*arguments: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "new")
        assert path.read_text() == "old"

    def test_a_missing_file_is_none_and_an_incomplete_one_an_error(self, tmp_path: Path) -> None:
        assert read_json(tmp_path / "absent.json") is None
        (tmp_path / "half.json").write_text('{"a": ')
        with pytest.raises(UsageError, match=r"half\.json: not JSON"):
            read_json(tmp_path / "half.json")


class TestRunDirectory:
    def test_can_be_opened_again_by_the_same_suite(self, tmp_path: Path) -> None:
        directory = RunDirectory(tmp_path / "runs" / "a")
        for _ in range(2):
            with directory.open("a"):
                write_record(directory.run_file, run_file("a"))

    def test_refuses_a_run_of_another_suite(self, tmp_path: Path) -> None:
        write_record(tmp_path / "run.json", run_file("a"))
        with (
            pytest.raises(UsageError, match="contains a run of suite 'a', not of 'b'"),
            RunDirectory(tmp_path).open("b"),
        ):
            pass

    @pytest.mark.parametrize("name", ["thesis.tex", "run.py", ".bashrc"])
    def test_refuses_other_files_and_writes_nothing(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("mine")
        with (
            pytest.raises(UsageError, match=f"contains other files \\({name}\\)"),
            RunDirectory(tmp_path).open("a"),
        ):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_refuses_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="is a file"), RunDirectory(tmp_path / "file").open("a"):
            pass

    def test_refuses_a_path_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with (
            pytest.raises(UsageError, match="cannot be written"),
            RunDirectory(tmp_path / "file" / "a").open("a"),
        ):
            pass

    def test_accepts_the_files_of_a_driver_that_was_killed_before_it_wrote_run_json(
        self, tmp_path: Path
    ) -> None:
        write_json(tmp_path / "environments" / "e.json", {})
        write_json(tmp_path / "trials" / "t" / "trial.json", {})
        write_text(tmp_path / "suite.yaml", "name: a")
        with RunDirectory(tmp_path).open("a"):
            pass

    def test_has_one_writer_at_a_time_and_a_dead_one_releases_it(self, tmp_path: Path) -> None:
        code = (
            "import sys, pathlib\nfrom harness.rundir.store import RunDirectory\n"
            f"with RunDirectory(pathlib.Path({str(tmp_path)!r})).open('a'):\n"
            "    print('locked', flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
        try:
            assert other.stdout is not None and other.stdout.readline() == "locked\n"
            with pytest.raises(UsageError, match="another harness process"), RunDirectory(tmp_path).open("a"):
                pass
        finally:
            other.kill()
            other.communicate()
        with RunDirectory(tmp_path).open("a"):
            pass


@pytest.fixture(scope="module")
def some_trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    return planned(tmp_path_factory.mktemp("plan"), document()).trials[0]


def with_batch(trial: Trial, size: int) -> Trial:
    return replace(trial, spec=trial.spec.model_copy(update={"batch_size": size}))


def batches(trial: Trial, cut: list[Range]) -> list[Range]:
    """Return the batches that a predictor makes of shards."""
    size = trial.spec.batch_size
    return [(first, min(first + size, stop)) for start, stop in cut for first in range(start, stop, size)]


@given(
    size=st.integers(1, 300),
    batch=st.integers(1, 40),
    history=st.lists(st.tuples(st.integers(1, 100), st.lists(st.booleans(), max_size=40)), max_size=4),
    last=st.integers(1, 100),
)
def test_shards_cover_the_gaps_and_batches_do_not_depend_on_earlier_runs(
    some_trial: Trial, size: int, batch: int, history: list[tuple[int, list[bool]]], last: int
) -> None:
    """Earlier runs had other shard sizes and completed only some of their shards."""
    trial = with_batch(some_trial, batch)
    done: set[Range] = set()

    def gaps() -> list[Range]:
        missing = sorted(set(range(size)) - {i for start, stop in done for i in range(start, stop)})
        starts = [i for i in missing if i - 1 not in missing]
        return [(a, next(i for i in range(a, size + 1) if i not in missing)) for a in starts]

    def cut(shard_size: int) -> list[Range]:
        return [(shard.start, shard.stop) for shard in Work(trial, tuple(gaps()), shard_size).shards()]

    for shard_size, survived in history:
        shards = cut(shard_size)
        done |= {shard for shard, complete in zip(shards, survived, strict=False) if complete}
    rest = cut(last)
    covered = sorted(i for start, stop in rest for i in range(start, stop))
    assert covered == [i for start, stop in gaps() for i in range(start, stop)], "every missing sample once"
    assert all(start % batch == 0 and (stop % batch == 0 or stop == size) for start, stop in rest)
    assert all(stop - start <= max(batch, -(-last // batch) * batch) for start, stop in rest)
    assert sorted(batches(trial, [*done, *rest])) == batches(trial, [(0, size)])


@given(st.sets(st.integers(0, 30)))
def test_missing_ranges_are_the_complement_of_completed_ones(
    tmp_path_factory: pytest.TempPathFactory, indices: set[int]
) -> None:
    trial_dir = TrialDirectory(tmp_path_factory.mktemp("trial"))
    trial_dir.predictions.folder.mkdir()
    for index in indices:
        (trial_dir.predictions.folder / f"{index:08d}-{index + 1:08d}.parquet").touch()
    gaps = trial_dir.predictions.missing_ranges(31)
    missing = [index for start, stop in gaps for index in range(start, stop)]
    assert missing == sorted(set(range(31)) - indices)
    assert trial_dir.predictions.count_missing(31) == len(missing)
    assert all(left[1] < right[0] for left, right in pairwise(gaps)), "adjacent gaps are joined"


def test_json_files_contain_readable_unicode(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "Größe ∞"})
    raw = (tmp_path / "a.json").read_text()
    assert "Größe ∞" in raw
    assert cast(dict, json.loads(raw))["text"] == "Größe ∞"


class TestDigests:
    def test_a_changed_an_added_and_a_missing_file_are_named_and_mended(self, tmp_path: Path) -> None:
        trial_dir = TrialDirectory(tmp_path)
        for start in (0, 2, 4, 6):
            write_shard(trial_dir, start, start + 2)
        changed, added, missing = (trial_dir.predictions.path(*at) for at in ((2, 4), (8, 10), (4, 6)))
        other = trial_dir.predictions.folder / "notes.txt"
        for path in (changed, added, other):
            path.write_bytes(b"PAR1 broken")
        missing.unlink()
        problems = [
            (changed, "changed since it was written"),
            (missing, "is missing"),
            (added, "has no digest in SHA256SUMS"),
        ]
        assert [(damage.path, damage.problem) for damage in trial_dir.digests.check()] == problems
        assert [(damage.path, damage.problem) for damage in trial_dir.digests.mend()] == problems
        assert trial_dir.predictions.completed_ranges() == [(0, 2), (6, 8)]
        assert other.exists(), "files of others are not touched"
        assert trial_dir.digests.check() == []

    def test_every_flipped_bit_of_a_file_or_of_its_digest_is_noticed(self, tmp_path: Path) -> None:
        trial_dir = TrialDirectory(tmp_path)
        trial_dir.digests.write(trial_dir.metrics_file, b"{}")
        for path in (trial_dir.metrics_file, trial_dir.digests.file):
            content = path.read_bytes()
            for bit in range(8 * len(content) - 8 * (path == trial_dir.digests.file)):
                flipped = bytearray(content)
                flipped[bit // 8] ^= 1 << bit % 8
                path.write_bytes(flipped)
                assert trial_dir.metrics_file in [damage.path for damage in trial_dir.digests.check()], bit
            path.write_bytes(content)
            assert trial_dir.digests.check() == []

    def test_a_writer_that_dies_at_any_step_damages_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        digests = TrialDirectory(tmp_path).digests
        path = tmp_path / "metrics.json"
        digests.write(path, b"old")

        def die(*arguments: object) -> None:
            raise KeyboardInterrupt

        for step in ("fsync", "open"):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr("os.fsync" if step == "fsync" else "harness.rundir.digests.write_bytes", die)
                digests.write(path, b"new")
            assert (path.read_bytes(), digests.check()) == (b"old", [])
        path.write_bytes(b"new")  # the rename was the last step of the dead writer
        assert digests.check() == []
        assert digests.mend() == []
        path.write_bytes(b"old")
        assert [damage.path for damage in digests.check()] == [path], "old content no longer counts"

    def test_sha256sum_accepts_the_file(self, tmp_path: Path) -> None:
        trial_dir = TrialDirectory(tmp_path)
        write_shard(trial_dir, 0, 2)
        command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
        assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
        for content in (b"old", b"new"):
            trial_dir.digests.write(trial_dir.metrics_file, content)
        trial_dir.digests.settle()
        assert len(trial_dir.digests.file.read_text().splitlines()) == 2
        assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
        for path in (trial_dir.predictions.path(0, 2), trial_dir.metrics_file):
            trial_dir.digests.remove(path)
        assert trial_dir.digests.file.read_text() == ""

    def test_a_file_counts_once_it_is_on_the_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The content of the temporary file, then its new name, as POSIX demands it."""
        synced: list[str] = []
        monkeypatch.setattr(
            os, "fsync", lambda number: synced.append(str(Path(f"/proc/self/fd/{number}").readlink()))
        )
        replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda a, b: synced.append("rename") or replace(a, b))
        write_text(tmp_path / "a.txt", "new")
        assert synced == [str(tmp_path / f".a.txt.{os.getpid()}"), "rename", str(tmp_path)]

    @pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 3), (errno.EDQUOT, 3), (errno.EROFS, 2)])
    def test_a_full_disk_is_not_the_users_mistake(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
    ) -> None:
        def fail(*arguments: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(HarnessError, match=r"a\.txt: cannot be written") as caught:
            write_text(tmp_path / "a.txt", "new")
        assert caught.value.exit_code == code


class TestFilesOfAKilledWriter:
    def test_temporary_files_do_not_prevent_a_new_run(self, tmp_path: Path) -> None:
        (tmp_path / ".run.json.4711").write_text("half")
        with RunDirectory(tmp_path).open("mine"):
            assert not (tmp_path / ".run.json.4711").exists()

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            ("[]", "should be an object"),
            ("{", "Invalid JSON"),
            ('{"suite": "mine"}', r"run\.json: written by another version"),
        ],
    )
    def test_a_run_json_that_does_not_match_its_model_is_refused(
        self, tmp_path: Path, content: str, problem: str
    ) -> None:
        (tmp_path / "run.json").write_text(content)
        with (
            pytest.raises(UsageError, match=f"cannot be continued: .*{problem}"),
            RunDirectory(tmp_path).open("mine"),
        ):
            pass


def test_a_run_of_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    """Even if it is whole, and of the same suite."""
    directory, says = RunDirectory(tmp_path), "written by another version of the harness; run the suite again"
    record = run_file("mine").model_dump(mode="json", by_alias=True) | {"schema": "harness-run/0"}
    directory.digests.write(directory.run_file, json.dumps(record).encode())
    directory.digests.write(tmp_path / "suite.yaml", b"name: mine")
    with pytest.raises(UsageError, match=rf"run\.json: {says}"), directory.open("mine"):
        pass
    (tmp_path / "results.json").write_text('{"schema": "harness-results/2", "latency_by_length": []}')
    with pytest.raises(UsageError, match=rf"results\.json: {says}"):
        read_results(tmp_path)
