"""`harness doctor`: describe this machine, what is missing on it, and how to provide it."""

import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import typer

from harness.cli.options import AsJson
from harness.errors import InfrastructureError, UnavailableError, UsageError

doctor_app = typer.Typer()

Status = Literal["ok", "optional", "missing"]
LEAST_FREE_GIB = 2  # a run of all shipped suites with its reports takes under 1 GiB
CONNECT_SECONDS = 2.0
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}  # defaults by scheme


@dataclass(frozen=True)
class Check:
    """The result of one check. `remedy` says how to provide what is missing."""

    name: str
    status: Status
    finding: str
    remedy: str = ""


def _check(name: str, is_ok: bool, finding: str, remedy: str) -> Check:
    """Return the result of a check whose remedy only a failure needs."""
    return Check(name, "ok", finding) if is_ok else Check(name, "missing", finding, remedy)


@doctor_app.command()
def doctor(as_json: AsJson = False) -> None:
    """Describe this machine and list what is missing."""
    from harness.cli.terminal import show, show_table

    checks = [*_machine(), *_storage(), *_services(), *_weights(), *_adapters(), *_datasets()]
    missing = [check for check in checks if check.status == "missing"]
    if as_json:
        show({"ready": not missing, "checks": [asdict(check) for check in checks]})
    else:
        show_table(["check", "status", "finding"], [[c.name, c.status, c.finding] for c in checks])
        for check in checks:
            if check.remedy:
                typer.echo(f"{check.status}: {check.name}: {check.remedy}")
        typer.echo(f"not ready: {len(missing)} missing" if missing else "ready")
    if missing:
        raise typer.Exit(InfrastructureError.exit_code)


def _machine() -> Iterator[Check]:
    from harness import environment

    yield Check("hardware", "ok", environment.describe().hardware_name)
    yield _gpu()
    for package in ("torch", "torchvision", "ray", "mlflow"):
        try:
            yield Check(package, "ok", version(package))
        except PackageNotFoundError:
            yield Check(package, "missing", "not installed", f"pip install {package}")


def _gpu() -> Check:
    """Compare the GPUs that the driver lists with those that PyTorch can use."""
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        count, driver = pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion()
    except pynvml.NVMLError as error:
        return Check("GPU driver", "optional", f"no NVIDIA driver ({error}); models run on the CPU")
    if torch.cuda.is_available():
        usable = f"{torch.cuda.device_count()} of {count} GPUs usable"
        return Check("GPU driver", "ok", f"driver {driver}, {usable}")
    reason = "is built for the CPU only" if torch.version.cuda is None else f"needs CUDA {torch.version.cuda}"
    remedy = "install a build of PyTorch for this driver (https://pytorch.org/get-started/locally)"
    return Check("GPU driver", "missing", f"driver {driver}, {count} GPUs, but PyTorch {reason}", remedy)


def _storage() -> Iterator[Check]:
    from harness.cache import cache_folder

    cache = cache_folder()
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file()) if cache.exists() else 0
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    writable = os.access(existing, os.W_OK)
    finding = f"{cache}, {size / 2**20:.0f} MiB{'' if writable else ', cannot be written'}"
    yield _check("cache folder", writable, finding, "set HARNESS_CACHE to a writable folder")
    for name, folder in (("disk of the cache", existing), ("disk of the runs", Path.cwd())):
        free = shutil.disk_usage(folder).free / 2**30
        remedy = f"free {LEAST_FREE_GIB} GiB on the disk of {folder}"
        yield _check(name, free >= LEAST_FREE_GIB, f"{free:.1f} GiB free", remedy)


def _services() -> Iterator[Check]:
    from harness.tracking import default_tracking_uri

    uri = os.environ.get("MLFLOW_TRACKING_URI") or default_tracking_uri(Path("runs/suite"))
    yield _reachable("MLflow address", uri, "start it, or unset MLFLOW_TRACKING_URI")
    for variable in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        if address := os.environ.get(variable):
            yield _reachable(variable, address, f"start the cluster, or unset {variable}")
            return
    yield Check("Ray address", "ok", "none set; `harness run` starts a local one")


def _reachable(name: str, address: str, remedy: str) -> Check:
    """Try to connect to a server, if the address names one: a file, or Ray's `auto`, does not."""
    from harness.tracking.tracking_store import public

    shown = public(address)
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
        if parts.hostname is None or port is None:
            return Check(name, "ok", shown)
        socket.create_connection((parts.hostname, port), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:  # no answer, or a port that is not a number
        return Check(name, "missing", f"{shown} does not answer ({error})", remedy)
    return Check(name, "ok", f"{shown} answers")


def _weights() -> Iterator[Check]:
    """Count the shipped recipes that ship with weights."""
    from harness.recipe import shipped_recipes

    recipes = shipped_recipes("yolo").values()
    shipped = sum(path.with_suffix(".safetensors").exists() for path in recipes)
    finding = f"{shipped} of {len(recipes)} recipes ship with weights; `harness train` trains the others"
    remedy = "install the package with its weights (`pip install .` in a full checkout)"
    yield _check("weights", shipped > 0, finding, remedy)


def _adapters() -> Iterator[Check]:
    from harness.adapter import ADAPTERS

    for name, entry in ADAPTERS.entries().items():
        try:
            cls = ADAPTERS.get(name)
        except UsageError as error:
            remedy = f"reinstall {entry.origin}, or uninstall it"
            yield Check(f"adapter {name}", "missing", str(error), remedy)
        else:
            yield Check(f"adapter {name}", "ok", f"{', '.join(cls.tasks())}, from {entry.origin}")


def _datasets() -> Iterator[Check]:
    from harness.datasets.dataset import DATASETS

    for name in DATASETS.entries():
        cls = DATASETS.get(name)
        required = [key for key, field in cls.Options.model_fields.items() if field.is_required()]
        if required:
            yield Check(f"data set {name}", "ok", f"your files: set {', '.join(required)}")
            continue
        try:
            dataset = cls(cls.Options(), cls.splits[-1], cls.tasks[0])
        except UnavailableError as error:
            yield Check(f"data set {name}", "optional", str(error))
        else:
            finding = "; ".join([f"{len(dataset)} test samples", *dataset.findings])
            yield Check(f"data set {name}", "ok", finding)
