"""Hardware and software of this machine, and provenance of the code that runs on it."""

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path

import psutil

from harness.files import StrictModel

PLUG_INS = ("harness.adapters", "harness.datasets", "harness.metrics")  # groups of entry points

# Environment variables of a submitted job.
SENT_REVISION, SENT_BRANCH = "HARNESS_GIT_REVISION", "HARNESS_GIT_BRANCH"
JOB = "HARNESS_JOB"  # id of the cluster job that the process belongs to


class Gpu(StrictModel):
    """An NVIDIA GPU as its driver reports it."""

    name: str
    memory_bytes: int
    driver: str


class Hardware(StrictModel):
    """The part of an environment that must match before two speed measurements are compared."""

    cpu: str
    cores: int
    logical_cores: int
    gpus: tuple[Gpu, ...]
    memory_gib: int
    """Rounded to whole GiB, because kernels reserve a varying amount of memory."""


class Environment(StrictModel):
    """Hardware and software that produced a figure, without anything that changes from minute to minute."""

    host: str
    os: str
    cpu: str
    cores: int
    logical_cores: int
    memory_bytes: int
    gpus: tuple[Gpu, ...]
    python: str
    packages: dict[str, str]
    """Versions of the packages that the harness and its plug-ins need directly, and of the plug-ins."""

    @property
    def key(self) -> str:
        """Return 12 hex digits of the SHA-256 of the content: equal environments have equal keys."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]

    @property
    def hardware(self) -> Hardware:
        """Return the part that determines speed, without the host's name and software."""
        return Hardware(
            cpu=self.cpu,
            cores=self.cores,
            logical_cores=self.logical_cores,
            gpus=self.gpus,
            memory_gib=round(self.memory_bytes / 2**30),
        )

    @property
    def hardware_name(self) -> str:
        """Return one line that names the GPUs, or the CPU if there are none."""
        if self.gpus:
            name = self.gpus[0].name
            return f"{len(self.gpus)} × {name}" if len(self.gpus) > 1 else name
        return f"{self.cpu}, {self.cores} cores"

    @property
    def torch(self) -> str | None:
        """Return the version of torch, or None if it is not installed."""
        return self.packages.get("torch")


def describe() -> Environment:
    """Describe the machine and the Python environment of this process."""
    return Environment(
        host=platform.node(),
        os=f"{platform.system()} {platform.release()}",
        cpu=_cpu_model(),
        cores=psutil.cpu_count(logical=False) or 0,
        logical_cores=os.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        gpus=_gpus(),
        python=platform.python_version(),
        packages=_packages(tuple(sys.path)),
    )


def usable_cores() -> int:
    """Return how many logical cores this process may use by its affinity and container, at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota = cpu_quota(Path("/sys/fs/cgroup/cpu.max").read_text())
    except OSError:  # no control groups of version 2, or the root group, which has no limit
        quota = None
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(text: str) -> float | None:
    """Return the cores that a control group may use according to its cpu.max, or None if it has no limit.

    The file contains "QUOTA PERIOD" in µs, or "max PERIOD" (Linux, admin-guide/cgroup-v2, "CPU").
    """
    quota, period = text.split()
    return None if quota == "max" else int(quota) / int(period)


@lru_cache
def _packages(path: tuple[str, ...]) -> dict[str, str]:  # noqa: ARG001
    """Return the versions of the installed direct dependencies; cached by sys.path."""
    points = (point for group in PLUG_INS for point in entry_points(group=group) if point.dist)
    plug_ins = {point.dist.name: point.dist for point in points if point.dist}
    required = {
        _canonical(match[0])
        for package in plug_ins.values()
        for requirement in package.requires or ()
        if (match := re.match(r"[\w.-]+", requirement))
    }
    versions = {}
    for name in sorted({*required, *map(_canonical, plug_ins)}):
        with suppress(PackageNotFoundError):  # an extra that is not installed
            versions[name] = version(name)
    return versions


def _canonical(name: str) -> str:
    """Return the canonical name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache
def _cpu_model() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@lru_cache
def _gpus() -> tuple[Gpu, ...]:
    """List NVIDIA GPUs through the driver's library; importing torch for this would take seconds."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(
                name=pynvml.nvmlDeviceGetName(handle),
                memory_bytes=pynvml.nvmlDeviceGetMemoryInfo(handle).total,
                driver=driver,
            )
            for handle in handles
        )
    finally:
        pynvml.nvmlShutdown()


def git_state() -> tuple[str | None, bool | None]:
    """Return the git revision of this code and whether tracked files differ from it; see `revision_of`.

    A job on a cluster runs without its checkout, and gets the revision from the process that submitted it.
    """
    if sent := os.environ.get(SENT_REVISION):
        return sent.removesuffix("+dirty"), sent.endswith("+dirty")
    return revision_of(Path(__file__))


def revision_of(file: Path) -> tuple[str | None, bool | None]:
    """Return the git revision of a file's checkout and whether tracked files differ from it.

    Both are None for a file that git does not track. A package that is installed inside another repository
    is not tracked there, so that repository's revision does not count.
    """
    folder = file.parent
    try:
        git(folder, "ls-files", "--error-unmatch", file.name)
        revision = git(folder, "rev-parse", "HEAD")
        return revision, bool(git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def git_branch(folder: Path, variables: Mapping[str, str] = os.environ) -> str | None:
    """Return the evaluated branch: the one that the CI names, or the one checked out in `folder`.

    A pull request is `pull/7/merge` and a merge request is `merge-requests/7/head`. Its branch may come from
    a fork and also be called `main`; such a branch must never be used as a baseline.

    Return None without a checkout, or for a commit that is not on a branch.
    """
    if branch := variables.get(SENT_BRANCH):
        return branch
    if head := variables.get("GITHUB_HEAD_REF"):  # set for pull requests only
        reference = variables.get("GITHUB_REF", "").removeprefix("refs/")
        # For `pull_request_target` events, GITHUB_REF is the branch that the request would be merged into.
        return reference if reference.startswith("pull/") else f"pull/{head}"
    if request := variables.get("CI_MERGE_REQUEST_REF_PATH"):  # the same on GitLab
        return request.removeprefix("refs/")
    for name in ("GITHUB_REF_NAME", "CI_COMMIT_REF_NAME"):
        if variables.get(name):
            return variables[name]
    try:
        return git(folder, "symbolic-ref", "--short", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def command_line() -> str:
    """Return the command line of this process, quoted for a shell, without the path of the program."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
