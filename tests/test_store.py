"""The run directory: whatever is there is whole, gaps are known, and batches never depend on history."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_suite import document, planned

from harness.errors import InfrastructureError, UsageError
from harness.files import read_json, write_json, write_text
from harness.rundir.store import Range, RunDirectory, TrialDirectory
from harness.stages.shards import Work
from harness.task import Translation
from harness.trial import Trial


def keep(place: TrialDirectory, start: int, stop: int, environment: str = "here") -> None:
    ids = [f"test-{index}" for index in range(start, stop)]
    place.write_shard("translation", start, ids, [Translation(name) for name in ids], environment)


class TestShardsOnDisk:
    def test_gaps_are_what_is_not_there(self, tmp_path: Path) -> None:
        place = TrialDirectory(tmp_path)
        assert place.todo(10) == [(0, 10)]
        keep(place, 4, 6)
        keep(place, 8, 10)
        assert place.done() == [(4, 6), (8, 10)]
        assert place.todo(10) == [(0, 4), (6, 8)]
        keep(place, 0, 4)
        keep(place, 6, 8)
        assert place.todo(10) == []

    def test_are_read_in_order_of_sample_however_they_came(self, tmp_path: Path) -> None:
        place = TrialDirectory(tmp_path)
        for start in (100, 0, 50):  # not the order of their text: "100" sorts before "50"
            keep(place, start, start + 50)
        assert [name for name, _ in place.read("translation")] == [f"test-{i}" for i in range(150)]

    def test_remember_the_machines_that_made_them(self, tmp_path: Path) -> None:
        place = TrialDirectory(tmp_path)
        keep(place, 0, 2, "b")
        keep(place, 2, 4, "a")
        keep(place, 4, 6, "b")
        assert [how["environment"] for how in place.made().values()] == ["b", "a", "b"]

    def test_what_a_killed_writer_left_is_ignored(self, tmp_path: Path) -> None:
        place = TrialDirectory(tmp_path)
        keep(place, 0, 2)
        whole = (place.predictions / "00000000-00000002.parquet").read_bytes()
        (place.predictions / ".00000002-00000004.parquet.4711").write_bytes(whole[: len(whole) // 2])
        assert place.todo(4) == [(2, 4)]
        assert len(list(place.read("translation"))) == 2
        assert [how["environment"] for how in place.made().values()] == ["here"]

    def test_a_damaged_shard_is_named(self, tmp_path: Path) -> None:
        place = TrialDirectory(tmp_path)
        keep(place, 0, 2)
        path = place.predictions / "00000000-00000002.parquet"
        path.write_bytes(path.read_bytes()[:50])
        with pytest.raises(InfrastructureError, match=r"00000000-00000002\.parquet: damaged .* run again"):
            list(place.read("translation"))


class TestFiles:
    def test_a_failed_write_leaves_the_old_document(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "figures.json"
        write_json(path, {"value": 1})
        with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
            write_json(path, {"value": float("nan")})
        assert read_json(path) == {"value": 1}

    def test_a_writer_that_dies_leaves_the_old_text(
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

    def test_reading(self, tmp_path: Path) -> None:
        assert read_json(tmp_path / "absent.json") is None
        (tmp_path / "half.json").write_text('{"a": ')
        with pytest.raises(UsageError, match=r"half\.json: not JSON"):
            read_json(tmp_path / "half.json")


class TestRunDirectory:
    def test_is_made_and_taken_again_by_the_same_suite(self, tmp_path: Path) -> None:
        directory = RunDirectory(tmp_path / "runs" / "a")
        for _ in range(2):
            with directory.open("a"):
                write_json(directory.path / "run.json", {"suite": "a"})

    def test_refuses_another_suites_run(self, tmp_path: Path) -> None:
        write_json(tmp_path / "run.json", {"suite": "a"})
        with (
            pytest.raises(UsageError, match="holds a run of suite 'a', not of 'b'"),
            RunDirectory(tmp_path).open("b"),
        ):
            pass

    @pytest.mark.parametrize("name", ["thesis.tex", "run.py", ".bashrc"])
    def test_refuses_other_files_and_writes_nothing(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("mine")
        with (
            pytest.raises(UsageError, match=f"holds other files \\({name}\\)"),
            RunDirectory(tmp_path).open("a"),
        ):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_refuses_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="is a file"), RunDirectory(tmp_path / "file").open("a"):
            pass

    def test_refuses_a_place_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with (
            pytest.raises(UsageError, match="cannot be written"),
            RunDirectory(tmp_path / "file" / "a").open("a"),
        ):
            pass

    def test_takes_what_a_driver_killed_before_its_record_left(self, tmp_path: Path) -> None:
        """run.json is written last."""
        write_json(tmp_path / "environments" / "e.json", {})
        write_json(tmp_path / "trials" / "t" / "trial.json", {})
        write_text(tmp_path / "suite.yaml", "name: a")
        with RunDirectory(tmp_path).open("a"):
            pass

    def test_has_one_writer_at_a_time_and_a_dead_one_does_not_count(self, tmp_path: Path) -> None:
        code = (
            "import sys, pathlib\nfrom harness.rundir.store import RunDirectory\n"
            f"with RunDirectory(pathlib.Path({str(tmp_path)!r})).open('a'):\n"
            "    print('held', flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
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
    """The batches that a predictor makes of shards, as in `Predictor.predict`."""
    size = trial.spec.batch_size
    return [(first, min(first + size, stop)) for start, stop in cut for first in range(start, stop, size)]


@given(
    size=st.integers(1, 300),
    batch=st.integers(1, 40),
    history=st.lists(st.tuples(st.integers(1, 100), st.lists(st.booleans(), max_size=40)), max_size=4),
    last=st.integers(1, 100),
)
def test_shards_cover_the_gaps_and_batches_do_not_depend_on_history(
    some_trial: Trial, size: int, batch: int, history: list[tuple[int, list[bool]]], last: int
) -> None:
    """Earlier runs, each with its own shard size, finished some of their shards before they were killed."""
    trial = with_batch(some_trial, batch)
    done: set[Range] = set()

    def gaps() -> list[Range]:
        missing = sorted(set(range(size)) - {i for start, stop in done for i in range(start, stop)})
        starts = [i for i in missing if i - 1 not in missing]
        return [(a, next(i for i in range(a, size + 1) if i not in missing)) for a in starts]

    def cut(shard_size: int) -> list[Range]:
        return [(shard.start, shard.stop) for shard in Work(trial, tuple(gaps()), shard_size).shards()]

    for shard_size, survived in history:
        made = cut(shard_size)
        done |= {shard for shard, kept in zip(made, survived, strict=False) if kept}
    rest = cut(last)
    covered = sorted(i for start, stop in rest for i in range(start, stop))
    assert covered == [i for start, stop in gaps() for i in range(start, stop)], "each missing sample once"
    assert all(start % batch == 0 and (stop % batch == 0 or stop == size) for start, stop in rest)
    assert all(stop - start <= max(batch, -(-last // batch) * batch) for start, stop in rest)
    assert sorted(batches(trial, [*done, *rest])) == batches(trial, [(0, size)])


@given(st.sets(st.integers(0, 30)))
def test_todo_is_the_complement_of_done(tmp_path_factory: pytest.TempPathFactory, kept: set[int]) -> None:
    place = TrialDirectory(tmp_path_factory.mktemp("trial"))
    place.predictions.mkdir()
    for index in kept:
        (place.predictions / f"{index:08d}-{index + 1:08d}.parquet").touch()
    missing = [i for start, stop in place.todo(31) for i in range(start, stop)]
    assert missing == sorted(set(range(31)) - kept)
    assert all(a[1] < b[0] for a, b in zip(place.todo(31), place.todo(31)[1:], strict=False)), (
        "gaps are whole"
    )


def test_documents_keep_unicode_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"text": "Größe ∞"})
    raw = (tmp_path / "a.json").read_text()
    assert "Größe ∞" in raw
    assert cast(dict, json.loads(raw))["text"] == "Größe ∞"


class TestWhatAKilledOrBrokenWriterLeaves:
    def test_damaged_shards_are_removed_to_be_made_again(self, tmp_path: Path) -> None:
        place = TrialDirectory(tmp_path)
        for start in (0, 2, 4):
            place.write_shard("translation", start, ["a", "b"], [Translation("x")] * 2, "here")
        (place.predictions / "00000002-00000004.parquet").write_bytes(b"PAR1 broken")
        (place.predictions / "1-junk.parquet").write_bytes(b"")
        assert place.drop_damaged() == ["00000002-00000004.parquet"]
        assert place.todo(6) == [(2, 4)]

    def test_temporary_files_before_the_record_do_not_lock_the_directory(self, tmp_path: Path) -> None:
        (tmp_path / ".run.json.4711").write_text("half")
        with RunDirectory(tmp_path).open("mine"):
            assert not (tmp_path / ".run.json.4711").exists()

    def test_a_record_that_is_no_record_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text("[]")
        with (
            pytest.raises(UsageError, match="not a run's record"),
            RunDirectory(tmp_path).open("mine"),
        ):
            pass
