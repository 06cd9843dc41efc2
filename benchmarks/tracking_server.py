"""A real tracking server for the benchmarks that log to one."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Return distinct free ports outside those of Ray's workers (10002–19999) and clients (from 32768)."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


class TrackingServer:
    """`mlflow server` on SQLite, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.uri = f"http://127.0.0.1:{port}"
        self._command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        self._command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
        self._command += ["--artifacts-destination", str(folder / "artifacts")]
        self.start()

    def start(self) -> None:
        light = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, env=light, start_new_session=True, **silent)

    def kill(self) -> bool:
        """Kill the server, and return whether it was alive until now."""
        alive = self._process.poll() is None
        if alive:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        return alive

    def wait(self) -> None:
        """Wait until the server answers."""
        end = time.monotonic() + 300
        while time.monotonic() < end:
            with suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            time.sleep(0.2)
        raise AssertionError("no MLflow server")
