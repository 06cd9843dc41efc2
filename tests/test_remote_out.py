"""A run whose --out is a URL: pyarrow's and fsspec's file systems, resume elsewhere, places that fail."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import fsspec
import pytest
from pyarrow.fs import FileSystem
from small_suite import document, write
from typer.testing import CliRunner

from harness import remote_out
from harness.cli import app
from harness.errors import InfrastructureError, UsageError
from harness.remote_out import LASTS, LEASE, Lease, Mirror, TakenError, folder_of, located


def run(folder: Path, out: str, *more: object) -> Any:
    suite = write(folder, document(ok={"batch_size": 4}))
    options = ["--executor", "inline", "--no-sync", "--shard-size", 4, "--out", out]
    return CliRunner().invoke(app, [str(word) for word in ("run", suite, *options, *more)])


@pytest.fixture(params=["pyarrow", "fsspec"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new place: `local:` is pyarrow's for a URL of this machine, `memory:` is only fsspec's."""
    if request.param == "pyarrow":
        return f"local://{tmp_path}/there/run"
    return f"memory://{tmp_path.name}/run"


def listed(place: str) -> dict[str, bytes]:
    files, root = fsspec.core.url_to_fs(place)
    return {path.removeprefix(f"{root}/"): files.cat_file(path) for path in files.find(root)}


def test_a_run_is_copied_whole_without_locks_and_half_written_files(place: str, tmp_path: Path) -> None:
    done = run(tmp_path, place)
    assert done.exit_code == 0, done.stderr
    assert f"report: {place}/report/index.html" in done.stderr.splitlines()
    there = listed(place)
    assert {"run.json", "suite.yaml", "results.json", "report/index.html"} <= there.keys()
    assert len([name for name in there if name.endswith(".parquet") and "/predictions/" in name]) == 5
    assert not [name for name in there if name.endswith(".lock") or "/." in name]


def test_another_machine_resumes_what_lies_there(place: str, tmp_path: Path) -> None:
    run(tmp_path, place)
    before = listed(place)
    files, root = fsspec.core.url_to_fs(place)
    lost = next(name for name in before if name.endswith("00000004-00000008.parquet"))
    files.rm_file(f"{root}/{lost}")
    done = run(tmp_path, place)
    assert "words/ok: 16 of 20 predictions are on disk" in done.stderr
    after = listed(place)
    assert after.keys() == before.keys()
    changed = {name for name in after if name.endswith(".parquet") and after[name] != before[name]}
    assert changed <= {lost}, "the others were not made again"


def test_what_is_removed_here_is_removed_there_and_only_changes_are_copied(tmp_path: Path) -> None:
    files, root = FileSystem.from_uri("mock:///run")
    mirror = Mirror(tmp_path, files, root, Lease(files, root))
    mirror.fetch()
    for name in ("error.json", "trials/a/x.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    mirror.push()
    copied = files.get_file_info(f"{root}/trials/a/x.parquet").mtime_ns
    (tmp_path / "error.json").unlink()
    (tmp_path / "later").write_text("later")
    mirror.push()
    there = {name for name in ("error.json", "later") if files.get_file_info(f"{root}/{name}").is_file}
    assert there == {"later"}
    assert files.get_file_info(f"{root}/trials/a/x.parquet").mtime_ns == copied


def test_a_copy_is_made_while_the_run_goes_on(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_out, "EVERY", 0.01)
    copied = threading.Event()
    push = Mirror.push
    monkeypatch.setattr(Mirror, "push", lambda mirror: (push(mirror), copied.set()))
    with located(place, print) as local:
        (local / "run.json").write_text("{}")
        copied.clear()
        assert copied.wait(20)
        assert listed(place).keys() == {"run.json", LEASE}
    assert listed(place) == {"run.json": b"{}"}


def test_sigterm_is_an_interruption_after_which_everything_is_there(place: str) -> None:
    with pytest.raises(KeyboardInterrupt), located(place, print) as local:
        (local / "run.json").write_text("{}")
        signal.raise_signal(signal.SIGTERM)
    assert listed(place) == {"run.json": b"{}"}
    assert not local.exists()


@pytest.mark.parametrize("kind", [OSError, RuntimeError], ids=["of ours", "of a cloud's library"])
def test_a_place_that_fails_at_the_end_leaves_the_run_here(
    place: str, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def full(mirror: Mirror) -> None:
        raise kind("no space left")

    kept = pytest.raises(InfrastructureError, match="no space left; the run is kept in")
    with kept as told, located(place, print) as local:
        (local / "run.json").write_text("{}")
        monkeypatch.setattr(Mirror, "push", full)
    assert (local / "run.json").exists()
    assert str(local) in str(told.value)


def test_a_second_run_is_refused_while_the_first_writes_there(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_JOB", "nightly-1f")
    taken = pytest.raises(UsageError, match=r"job nightly-1f on .* writes there, as of 0 s ago; wait for it")
    with located(place, print) as local:
        (local / "run.json").write_text("{}")
        with taken, located(place, print):
            pytest.fail("nothing may run")
    assert listed(place) == {"run.json": b"{}"}, "the first was not disturbed, and gave the place back"
    with located(place, print) as local:
        assert [path.name for path in local.iterdir()] == ["run.json"]


class TestLease:
    @pytest.fixture
    def clock(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def leases(self, clock: list[float]) -> tuple[Lease, Lease]:
        files, root = FileSystem.from_uri("mock:///run")
        return Lease(files, root, lambda: clock[0]), Lease(files, root, lambda: clock[0])

    def test_ends_when_it_is_not_renewed_and_then_the_first_copies_nothing_more(
        self, leases: tuple[Lease, Lease], clock: list[float]
    ) -> None:
        first, second = leases
        first.renew()
        clock[0] += LASTS
        with pytest.raises(TakenError, match=f"as of {LASTS:.0f} s ago"):
            second.renew()
        clock[0] += 1
        second.renew()
        with pytest.raises(TakenError, match="writes there, as of 0 s ago"):
            first.renew()

    @pytest.mark.parametrize("seen", [True, False], ids=["while the other writes", "after it"])
    def test_that_was_lost_stays_lost_when_the_other_run_has_ended(
        self, leases: tuple[Lease, Lease], clock: list[float], seen: bool
    ) -> None:
        first, second = leases
        first.renew()
        clock[0] += LASTS + 1
        second.renew()
        if seen:
            with pytest.raises(TakenError, match="writes there"):
                first.renew()
        second.release()
        for _ in range(2):
            with pytest.raises(TakenError, match="writes there" if seen else "has taken the place"):
                first.renew()

    def test_that_this_process_half_wrote_is_still_its_own(
        self, leases: tuple[Lease, Lease], clock: list[float]
    ) -> None:
        first = leases[0]
        first.renew()
        with first._files.open_output_stream(first._path) as target:
            target.write(b'{"id": ')
        first.renew()

    def test_ends_at_once_with_a_process_of_this_machine(
        self, leases: tuple[Lease, Lease], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = leases
        first.renew()
        monkeypatch.setattr("harness.remote_out.psutil.pid_exists", lambda process: False)
        second.renew()

    def test_of_another_machine_does_not(
        self, leases: tuple[Lease, Lease], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("harness.remote_out.platform.node", lambda: "elsewhere")
        files, root = leases[0]._files, "/run"
        Lease(files, root, lambda: 1000.0).renew()
        monkeypatch.setattr("harness.remote_out.psutil.pid_exists", lambda process: False)
        with pytest.raises(TakenError, match="on elsewhere writes there"):
            leases[1].renew()

    def test_half_written_is_none(self, place: str) -> None:
        files, root = fsspec.core.url_to_fs(place)
        files.makedirs(root)
        files.pipe_file(f"{root}/{LEASE}", b'{"id": ')
        with located(place, print) as local:
            assert list(local.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("nope://bucket/run", UsageError, "Protocol not known: nope"),
        ("s3://", UsageError, "expected a place, such as s3://bucket/runs/nightly"),
        ("local:///proc/run", InfrastructureError, "cannot be read or written"),
    ],
)
def test_a_place_that_is_none_is_told_before_anything_runs(url: str, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says), located(url, print):
        pytest.fail("nothing may run")


def test_an_error_of_a_library_leaves_nothing_and_is_told(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(lease: Lease) -> None:
        raise RuntimeError("no credentials")

    monkeypatch.setattr(Lease, "renew", refused)
    monkeypatch.setattr(remote_out.tempfile, "tempdir", str(tmp_path))
    told = pytest.raises(InfrastructureError, match="cannot be read or written: RuntimeError: no credentials")
    with told, located(place, print):
        pytest.fail("nothing may run")
    assert not list(tmp_path.glob("harness-run-*"))


@pytest.mark.parametrize(
    "url",
    ["s3://KEY:hidden@bucket/x", "s3://KEY:hid/den@bucket/x", "s3://KEY:1234@bucket", "ftp://me:@host:21/x"],
)
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(UsageError, match=r"--out \w+://…: a password in a URL") as told:
        folder_of(url)
    assert "hid" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    ["hdfs://name:8020/runs/a:b@c", "abfs://container@account.dfs.core.windows.net/x", "sftp://me@host:22/x",
     "s3://bucket?endpoint_override=localhost:9000&scheme=http", "ftp://[::1]:21/x", "local:///a:b/c"],
)  # fmt: skip
def test_ports_and_names_in_a_url_are_no_passwords(url: str) -> None:
    assert folder_of(url) is None


def test_paths_are_left_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    found = []
    for out in ("runs/x", f"file://{tmp_path}/y", "~/z"):
        with located(out, print) as directory:
            found.append(directory)
    assert found == [Path("runs/x"), tmp_path / "y", tmp_path / "z"]
