"""What machine this is: the part of every figure that the code does not decide."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("numpy", "torch", "torchvision", "ray", "mlflow", "sacrebleu", "scikit-learn", "sentencepiece")


SENT_REVISION, SENT_BRANCH = "HARNESS_GIT_REVISION", "HARNESS_GIT_BRANCH"
JOB = "HARNESS_JOB"  # the id of the cluster job that a process is


def describe() -> dict[str, Any]:
    """Hardware and software of this machine, without anything that changes from minute to minute."""
    return {
        "host": platform.node(),
        "os": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cores": psutil.cpu_count(logical=False) or 0,
        "logical_cores": os.cpu_count() or 0,
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": _gpus(),
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }


def key(environment: dict[str, Any]) -> str:
    """A short content hash: equal environments, equal keys."""
    return hashlib.sha256(json.dumps(environment, sort_keys=True).encode()).hexdigest()[:12]


def hardware(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What decides how fast a machine is; its name and its software stand aside.

    Memory in whole GiB: kernels reserve some, and not always the same amount.
    """
    found = {name: environment.get(name) for name in ("cpu", "cores", "logical_cores", "gpus")}
    memory = environment.get("memory_bytes")
    return found | {"memory_gib": None if memory is None else round(memory / 2**30)}


def speed_setting(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Hardware and version of torch: where these are equal, a speed measurement need not be repeated."""
    return hardware(environment) | {"torch": environment.get("packages", {}).get("torch")}


def usable_cores() -> int:
    """Logical cores that this process may keep busy, at least 1: its affinity, bounded by its container."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota = cpu_quota(Path("/sys/fs/cgroup/cpu.max").read_text())
    except OSError:  # no control groups of version 2, or their root, which has no limit
        quota = None
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota(text: str) -> float | None:
    """Cores that a control group may use, from its cpu.max; None where it has no limit.

    The file holds "QUOTA PERIOD" in µs, or "max PERIOD" (Linux, admin-guide/cgroup-v2, "CPU").
    """
    quota, period = text.split()
    return None if quota == "max" else int(quota) / int(period)


def hardware_name(environment: dict[str, Any]) -> str:
    """One line: the GPUs if there are any, else the CPU."""
    gpus = environment["gpus"]
    if gpus:
        return f"{len(gpus)} × {gpus[0]['name']}" if len(gpus) > 1 else str(gpus[0]["name"])
    return f"{environment['cpu']}, {environment['cores']} cores"


@lru_cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache
def _cpu_model() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@lru_cache
def _gpus() -> list[dict[str, Any]]:
    """NVIDIA GPUs as the driver's library lists them; importing torch for this would cost seconds."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [
            {
                "name": pynvml.nvmlDeviceGetName(handle),
                "memory_bytes": pynvml.nvmlDeviceGetMemoryInfo(handle).total,
                "driver": driver,
            }
            for handle in handles
        ]
    finally:
        pynvml.nvmlShutdown()


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Revision and whether tracked files differ from it; (None, None) outside a checkout of this code.

    A package installed into somebody's repository is not tracked there: that revision is not ours. Code that
    was sent to a cluster has left its checkout behind: who sent it says in variables what it was.
    """
    if sent := os.environ.get(SENT_REVISION):
        return sent.removesuffix("+dirty"), sent.endswith("+dirty")
    try:
        _git(folder, "ls-files", "--error-unmatch", "environment.py")
        revision = _git(folder, "rev-parse", "HEAD")
        return revision, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def git_branch(folder: Path, variables: Mapping[str, str] = os.environ) -> str | None:
    """What is being evaluated: the branch that the CI names, else the one checked out in `folder`.

    Of a pull request `pull/7/merge`, of a merge request `merge-requests/7/head`: it may come from a fork,
    whose branch is called `main` as well, and must never be taken for a baseline.
    """
    if branch := variables.get(SENT_BRANCH):
        return branch
    if head := variables.get("GITHUB_HEAD_REF"):  # set for pull requests only
        reference = variables.get("GITHUB_REF", "").removeprefix("refs/")
        # Under `pull_request_target` that is the branch which the request is to be merged into.
        return reference if reference.startswith("pull/") else f"pull/{head}"
    if request := variables.get("CI_MERGE_REQUEST_REF_PATH"):  # GitLab, likewise
        return request.removeprefix("refs/")
    for name in ("GITHUB_REF_NAME", "CI_COMMIT_REF_NAME"):
        if variables.get(name):
            return variables[name]
    try:
        return _git(folder, "symbolic-ref", "--short", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None  # no checkout, or a commit without a branch


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def command_line() -> str:
    """How this process was called, with the program's bare name, quoted for a shell."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
