"""Jobs on a fake cluster: packages, ids, exit codes, messages, Ctrl-C."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from http_server import serving
from small_suite import document, write
from typer.testing import CliRunner

from harness import environment
from harness.cli.app import app
from harness.errors import InfrastructureError, UsageError
from harness.jobs import client as jobs_client
from harness.jobs import package
from harness.jobs.client import JobsClient, connect
from harness.jobs.job import JobRecord, JobSpec, attempts, exit_code
from harness.jobs.package import pack
from harness.jobs.submission import RunOptions, prepare
from harness.suite.loading import load_suite

OPTIONS = RunOptions("/shared/run", (), None, None, None, 64, None, True)


class FakeClient:
    """Fakes Ray's client; each job gets the next of the given (status, exit code)."""

    def __init__(self, *ends: tuple[str, int | None]) -> None:
        self.ends = list(ends)
        self.jobs: list[Any] = []
        self.submitted: list[dict[str, Any]] = []
        self.tails: list[list[str] | Exception] = []
        self.stopped: list[str] = []

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def submit_job(self, **request: Any) -> str:
        self.submitted.append(request)
        status, code = self.ends.pop(0)
        self.jobs.append(details(request["submission_id"], status, code, request["metadata"]))
        return request["submission_id"]

    def stop_job(self, job_id: str) -> bool:
        self.stopped.append(job_id)
        return True

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for text in self.tails.pop(0):
            if isinstance(text, Exception):
                raise text
            yield text


def details(job_id: str, status: str, code: int | None = None, metadata: Any = None) -> Any:
    return SimpleNamespace(
        submission_id=job_id, status=status, driver_exit_code=code, metadata=metadata, message="m",
        start_time=1_700_000_000_000, end_time=None, entrypoint="python -m harness run …",
    )  # fmt: skip


def spec(**changes: Any) -> JobSpec:
    return JobSpec(**{"suite": "nightly", "arguments": ["s"], "package": "p", "environment": {}} | changes)


def submit(client: FakeClient, again: bool = False) -> tuple[str, bool]:
    job, new = JobsClient(client, "http://head:8265").submit(spec(), Path("p.zip"), {"A": "1"}, again)
    return job.id, new


class TestIdentity:
    def test_is_equal_for_equal_submissions_and_depends_on_every_part(self) -> None:
        same = {spec().id, spec(arguments=["s"], environment={}).id}
        others = {spec(package="q").id, spec(arguments=["t"]).id, spec(environment={"A": "1"}).id}
        assert len(same) == 1
        assert len(same | others) == 4
        assert re.fullmatch(r"nightly-[0-9a-f]{12}", same.pop())

    def test_attempts_are_only_jobs_with_the_same_id(self) -> None:
        ids = ["a-1", "a-1-2", "a-1-10", "a-12", "b-a-1", "a-1-x"]
        jobs = [JobRecord(job_id, "a", "FAILED", 3, "", None, None, "") for job_id in ids]
        assert {number: job.id for number, job in attempts("a-1", jobs).items()} == {
            1: "a-1",
            2: "a-1-2",
            10: "a-1-10",
        }

    def test_the_command_is_quoted_for_a_shell(self) -> None:
        made = spec(arguments=["a suite.yaml", "--set", "x=[1, 2]"]).entrypoint
        assert made == "python -m harness run 'a suite.yaml' --set 'x=[1, 2]'"


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "expected"),
    [
        ("PENDING", None, None),
        ("RUNNING", None, None),
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 3),  # Python's own, because a library is missing: a run finds no regressions
        ("FAILED", 2, 2),
        ("FAILED", 3, 3),
        ("FAILED", 130, 130),
        ("FAILED", 137, 3),  # killed, for example out of memory
        ("FAILED", 0, 3),  # failed by Ray, whatever the driver returned
        ("FAILED", None, 3),  # it never started
        ("STOPPED", None, 130),
    ],
)
def test_an_ended_job_has_an_exit_code_of_the_harness(
    status: str, driver_exit_code: int | None, expected: int | None
) -> None:
    assert exit_code(status, driver_exit_code) == expected


class TestResubmission:
    @pytest.mark.parametrize("status", ["PENDING", "RUNNING", "SUCCEEDED"])
    def test_a_running_or_successful_job_is_joined(self, status: str) -> None:
        client = FakeClient((status, None))
        first = submit(client)
        assert submit(client) == (first[0], False)
        assert len(client.submitted) == 1

    @pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
    def test_a_job_that_ended_otherwise_is_submitted_as_its_next_attempt(self, status: str) -> None:
        client = FakeClient((status, 3), (status, 3), ("RUNNING", None))
        ids = [submit(client)[0] for _ in range(4)]
        assert ids == [spec().id, f"{spec().id}-2", f"{spec().id}-3", f"{spec().id}-3"]
        variables = [request["runtime_env"]["env_vars"] for request in client.submitted]
        assert [names["HARNESS_JOB"] for names in variables] == ids[:3], "each job has its own id"
        # Ray's supervisor reads it from there (measured)
        assert {(names["A"], names["RAY_JOB_STOP_WAIT_TIME_S"]) for names in variables} == {("1", "60")}

    def test_again_repeats_a_successful_job(self) -> None:
        client = FakeClient(("SUCCEEDED", 0), ("RUNNING", None))
        submit(client)
        assert submit(client, again=True) == (f"{spec().id}-2", True)

    def test_the_second_of_two_simultaneous_submissions_joins_the_first(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = FakeClient()

        def fail(**request: Any) -> str:
            client.jobs.append(details(request["submission_id"], "PENDING"))
            raise RuntimeError("Request failed with status code 500: job already exists")

        monkeypatch.setattr(client, "submit_job", fail)
        assert submit(client) == (spec().id, False)


class TestFollow:
    def test_reconnects_and_writes_nothing_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs_client, "RETRY_SECONDS", 0.0)
        client = FakeClient()
        client.jobs = [details("j", "SUCCEEDED", 0)]
        client.tails = [["one\n", "tw", RuntimeError("closed")], ["one\ntwo\n", "three\n"]]  # type: ignore[list-item]
        shown: list[str] = []
        job = JobsClient(client, "http://head:8265").follow("j", shown.append)
        assert "".join(shown) == "one\ntwo\nthree\n"
        assert job.exit_code == 0

    def test_reconnects_after_hours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        hours = itertools.count(0, 3600)
        monkeypatch.setattr(jobs_client, "RETRY_SECONDS", 0.0)
        monkeypatch.setattr(jobs_client.time, "monotonic", lambda: next(hours))
        client = FakeClient()
        client.jobs = [details("j", "SUCCEEDED", 0)]
        client.tails = [
            ["one\n", RuntimeError("closed")],  # type: ignore[list-item]
            ["one\n", "two\n", RuntimeError("closed")],  # type: ignore[list-item]
            ["one\n", "two\n"],
        ]
        shown: list[str] = []
        assert JobsClient(client, "http://head:8265").follow("j", shown.append).exit_code == 0
        assert "".join(shown) == "one\ntwo\n"

    def test_a_dashboard_that_stays_silent_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobs_client, "RETRY_SECONDS", 0.0)
        monkeypatch.setattr(jobs_client, "FOLLOW_TIMEOUT_SECONDS", -1.0)
        client = FakeClient()
        client.jobs = [details("j", "RUNNING")]
        client.tails = [[RuntimeError("gone")]]  # type: ignore[list-item]
        with pytest.raises(InfrastructureError, match="following j: gone; `harness logs j --follow`"):
            JobsClient(client, "http://head:8265").follow("j", print)

    def test_an_unknown_job_is_an_error_that_names_the_nearest(self) -> None:
        client = FakeClient()
        client.jobs = [details("nightly-12ab", "RUNNING")]
        with pytest.raises(UsageError, match="unknown job 'nightly-12a'; did you mean 'nightly-12ab'"):
            JobsClient(client, "http://head:8265").follow("nightly-12a", print)


class TestPackage:
    def test_holds_code_suite_and_named_weights_and_nothing_else(self, tmp_path: Path) -> None:
        (tmp_path / "suites").mkdir()
        (tmp_path / "weights").mkdir()
        (tmp_path / "weights" / "w.pth").write_bytes(b"weights")
        (tmp_path / "weights" / "other.pth").write_bytes(b"weights")
        (tmp_path / ".env").write_text("SECRET=1")
        entries = {"mine": {"checkpoint": "../weights/w.pth"}, "there": {"checkpoint": "/nfs/x.pth"}}
        write(tmp_path / "suites", document(**entries) | {"include": ["more.yaml"]})
        (tmp_path / "suites" / "more.yaml").write_text("name: more\n")
        packed = pack(load_suite(tmp_path / "suites" / "suite.yaml"))
        mine = {name for name in packed.files if name.startswith("suite/")}
        assert packed.suite == "suite/suites/suite.yaml"
        assert mine == {"suite/suites/suite.yaml", "suite/suites/more.yaml", "suite/weights/w.pth"}
        assert {"harness/cli/app.py", "adapters/checkpoints/yolo-scenes.yaml", "fake_adapters.py"} <= set(
            packed.files
        )
        assert not [
            name for name in packed.files if name.endswith((".safetensors", ".pth")) and name not in mine
        ]
        assert not [name for name in packed.files if "secret" in name.lower() or "__pycache__" in name]

    def test_takes_a_training_that_the_suite_describes_from_the_suite(self, tmp_path: Path) -> None:
        training = {"dataset": "phrases", "steps": 1, "batch_size": 1, "learning_rate": 0.1, "metric": "bleu"}
        path = write(tmp_path, document(made={"adapter": "attention", "train": training}))
        packed = pack(load_suite(path))
        assert (packed.suite, packed.files[packed.suite]) == ("suite/suite.yaml", path)

    def test_excludes_hidden_files_and_links_out_of_a_package(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "planted"
        (folder / ".secrets").mkdir(parents=True)
        for name in ("__init__.py", ".env", ".secrets/key.txt"):
            (folder / name).write_text("x")
        (tmp_path / "elsewhere.txt").write_text("x")
        (folder / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
        monkeypatch.syspath_prepend(tmp_path)
        assert [name for name, _ in package._code_files("planted")] == ["planted/__init__.py"]

    def test_gives_the_same_plan_on_the_cluster(self, tmp_path: Path) -> None:
        """With a shipped and a third-party adapter, shipped weights, a named file, and the harness's code."""
        shipped = {"adapter": "attention", "checkpoint": "attention-phrases-en-de"}
        (tmp_path / "words.txt").write_text("one")
        path = write(tmp_path, document(shipped=shipped, theirs={"options": {"glossary": "words.txt"}}))
        packed = pack(load_suite(path))
        assert "adapters/checkpoints/attention-phrases-en-de.safetensors" in packed.files
        packed.write(tmp_path / "p.zip")
        with zipfile.ZipFile(tmp_path / "p.zip") as archive:
            archive.extractall(tmp_path / "there")
        code = "import harness; from harness.cli.app import main; assert 'there' in harness.__file__; main()"
        command = [sys.executable, "-c", code, "plan", packed.suite, "--json"]
        without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ran = subprocess.run(
            command, cwd=tmp_path / "there", env=without, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        there, here = json.loads(ran.stdout), json.loads(call("plan", path, "--json").stdout)
        ids = [(trial["trial"], trial["id"], trial["train"]) for trial in here["trials"]]
        assert [(trial["trial"], trial["id"], trial["train"]) for trial in there["trials"]] == ids

    def test_equal_packages_have_equal_bytes_and_other_content_another_digest(self, tmp_path: Path) -> None:
        path = write(tmp_path, document())
        first, second = pack(load_suite(path)), pack(load_suite(path))
        first.write(tmp_path / "a.zip")
        second.write(tmp_path / "b.zip")
        assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
        assert first.digest == second.digest
        write(tmp_path, document(21))
        assert pack(load_suite(path)).digest != first.digest

    def test_that_is_too_large_is_an_error_before_it_is_sent(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(package, "MAX_PACKAGE_BYTES", 1000)
        with pytest.raises(UsageError, match=r"has 0\.\d MiB, and Ray accepts at most 0\.0 MiB \(largest: "):
            pack(load_suite(write(tmp_path, document()))).write(tmp_path / "p.zip")


class TestPreparation:
    def test_passes_options_to_the_command(self, tmp_path: Path) -> None:
        options = RunOptions("/shared/run", ("adapters.ok.batch_size=4",), "words/*", 8, 2, 16, "ci", False)
        made = prepare(load_suite(write(tmp_path, document())), options, ["A=1"])
        assert made.spec.entrypoint == (
            "python -m harness run suite/suite.yaml --out /shared/run --address auto --shard-size 16 "
            "--set adapters.ok.batch_size=4 --only 'words/*' --limit 8 --workers 2 --profile ci --no-sync"
        )
        assert made.variables["A"] == "1"

    def test_passes_the_tracking_server_unless_it_holds_a_password(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        loaded = load_suite(write(tmp_path, document()))
        sent = {}
        for uri in ("http://mlflow:5000", "https://me:secret@mlflow", "sqlite:///mlflow.db"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
            sent[uri] = prepare(loaded, OPTIONS, []).variables.get("MLFLOW_TRACKING_URI")
        assert list(sent.values()) == ["http://mlflow:5000", None, None]

    def test_passes_the_revision_of_the_code(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(environment, "git_state", lambda: ("abc", True))
        made = prepare(load_suite(write(tmp_path, document())), OPTIONS, [])
        monkeypatch.undo()
        for name, value in made.variables.items():
            monkeypatch.setenv(name, value)
        assert environment.git_state() == ("abc", True)

    @pytest.mark.parametrize(
        ("out", "variables", "says"),
        [
            ("runs/x", [], "--out runs/x: expected an absolute path on the cluster"),
            ("file:///x", [], "--out file://…: expected a folder"),
            ("s3://KEY:hidden@bucket/x", [], "--out s3://…: expected a folder"),
            (None, ["1A=2"], "--env 1A=2: expected NAME or NAME=VALUE"),
            (None, ["NOT_SET_HERE"], "--env NOT_SET_HERE: not set here"),
        ],
    )
    def test_invalid_options_are_errors(
        self, tmp_path: Path, out: str | None, variables: list[str], says: str
    ) -> None:
        options = RunOptions(out, (), None, None, None, 64, None, True)
        with pytest.raises(UsageError, match=re.escape(says)):
            prepare(load_suite(write(tmp_path, document())), options, variables)


def call(*arguments: object, **settings: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **settings)


class TestConnection:
    @pytest.mark.parametrize(
        "address",
        ["head:6379", "ray://head:10001", "http://", "http://head:abc", "http://[::1", "http://head:99999",
         "http://me:hidden@head:8265", "me:hidden@head:8265", "http://head 1", "http://.head"],
    )  # fmt: skip
    def test_an_address_that_is_not_a_dashboards_is_an_error(self, address: str) -> None:
        with pytest.raises(
            UsageError, match="expected the cluster's dashboard, such as http://head:8265"
        ) as told:
            connect(address)
        assert "hidden" not in str(told.value)

    def test_a_port_that_does_not_speak_http_is_an_error(self) -> None:
        def answer() -> None:
            with server.accept()[0] as caller:
                caller.recv(1000)
                caller.sendall(bytes([0, 0, 6, 4, 0, 0, 0, 0, 0]) + b"\n")  # a frame of HTTP/2, as gRPC sends

        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(UsageError, match="nothing there speaks HTTP; expected the cluster's dashb"):
                connect(f"http://127.0.0.1:{server.getsockname()[1]}")
            thread.join()

    @pytest.mark.parametrize("source", ["variable", "named file", "file at home"])
    @pytest.mark.parametrize("token", [b"hidden\ntoken", b"hidden token", b"hidden\xe4", b"hidden\xc3\xa4"])
    def test_a_malformed_token_is_an_error_that_does_not_show_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, token: bytes
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        file = tmp_path / ".ray" / "auth_token"
        file.parent.mkdir()
        file.write_bytes(token)
        if source == "variable":
            monkeypatch.setenv("RAY_AUTH_TOKEN", os.fsdecode(token))
        elif source == "named file":
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
        done = call("status", "--address", "http://127.0.0.1:1")
        assert done.exit_code == 2, "before anything is sent"
        says = "expected a token: one line of ASCII|token file .*auth_token: cannot be read: not text"
        assert re.search(says, done.stderr)
        assert "hidden" not in done.stderr

    def test_an_unreadable_token_file_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path))
        with pytest.raises(UsageError, match=f"token file {tmp_path}: cannot be read: Is a directory"):
            connect("http://127.0.0.1:1")

    @pytest.mark.parametrize(
        ("code", "token", "says"),
        [
            (401, None, "requires a token, and none is set: set RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH"),
            (403, "wrong", "the cluster rejects the token from RAY_AUTH_TOKEN"),
            (404, None, "no Ray dashboard: HTTP 404"),
        ],
    )
    def test_a_rejection_is_one_line_and_exit_code_3(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, token: str | None, says: str
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
        if token:
            monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        with serving(code) as (address, seen):
            done = call("status", "--address", address)
        assert (done.exit_code, done.stdout) == (3, "")
        assert says in done.stderr
        assert [request.get("Authorization") for request in seen] == [token and f"Bearer {token}"]

    def test_a_missing_dashboard_is_an_error_at_once(self) -> None:
        done = call("status", "--address", "http://127.0.0.1:1")
        assert done.exit_code == 3
        assert "no Ray dashboard answers there (" in done.stderr


class TestCommands:
    @pytest.fixture
    def client(self, monkeypatch: pytest.MonkeyPatch) -> FakeClient:
        client = FakeClient(("FAILED", 3))
        monkeypatch.setattr(jobs_client, "connect", lambda address: JobsClient(client, address))
        return client

    def test_submit_with_follow_prints_the_job_and_ends_with_its_exit_code(
        self, client: FakeClient, tmp_path: Path
    ) -> None:
        client.tails = [["words/ok: 20/20 samples\n"]]
        path = write(tmp_path, document())
        done = call("submit", path, "--address", "http://head:8265", "--out", "/s", "--follow", "--json")
        assert done.exit_code == 3
        assert "words/ok: 20/20 samples\n" in done.stderr
        printed = json.loads(done.stdout)
        assert (printed["status"], printed["exit_code"], printed["new"]) == ("FAILED", 3, True)
        assert client.submitted[0]["metadata"] == {"harness-suite": "small"}

    def test_submit_without_follow_prints_the_id_and_succeeds(
        self, client: FakeClient, tmp_path: Path
    ) -> None:
        done = call("submit", write(tmp_path, document()), "--address", "http://head:8265")
        assert (done.exit_code, done.stdout) == (0, f"{client.jobs[0].submission_id}\n")
        assert "results go to ~/runs/small" in done.stderr

    def test_ctrl_c_leaves_the_job_running(
        self, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(JobsClient, "follow", interrupted)
        client.jobs = [details("j", "RUNNING", metadata={"harness-suite": "small"})]
        done = call("logs", "j", "--address", "http://head:8265", "--follow")
        assert done.exit_code == 130
        assert "j keeps running; `harness logs j --follow` shows it again" in done.stderr

    def test_status_lists_only_jobs_of_the_harness(self, client: FakeClient) -> None:
        client.jobs = [
            details("a", "SUCCEEDED", 0, {"harness-suite": "small"}),
            details("somebody-elses", "RUNNING"),
        ]
        (job,) = json.loads(call("status", "--address", "http://head:8265", "--json").stdout)
        assert (job["id"], job["exit_code"], job["started"]) == ("a", 0, "2023-11-14T22:13:20+00:00")
        table = call("status", "a", "--address", "http://head:8265").stdout.splitlines()
        assert table[1].split("\t")[:3] == ["a", "SUCCEEDED", "0"]

    def test_stop_stops_only_jobs_of_the_harness(self, client: FakeClient) -> None:
        client.jobs = [
            details("ours", "RUNNING", metadata={"harness-suite": "small"}),
            details("theirs", "RUNNING", metadata={"owner": "them"}),
        ]
        assert call("stop", "ours", "--address", "http://head:8265").stdout == "ours: stopping\n"
        done = call("stop", "theirs", "--address", "http://head:8265")
        assert done.exit_code == 2
        assert "job theirs was not submitted by the harness; end it with `ray job stop`" in done.stderr
        assert client.stopped == ["ours"]


def test_a_missing_library_is_an_error_and_not_a_regression() -> None:
    code = "import runpy, sys; sys.modules['typer'] = None; runpy.run_module('harness', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    line, remedy = done.stderr.splitlines()
    assert line.startswith(f"error: {sys.executable} cannot run the harness: ModuleNotFoundError: ")
    assert "first on PATH" in remedy


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt
