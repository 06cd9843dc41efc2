"""Nodes of `ray start`, each with processes and a folder of its own, that can die and come back."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

OPEN = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1"}  # `ray start` asks for tokens
AGENTS = {
    "--metrics-export-port": "metrics_export_port",
    "--runtime-env-agent-port": "runtime_env_agent_port",
    "--dashboard-agent-listen-port": "dashboard_agent_listen_port",
    "--dashboard-agent-grpc-port": "metrics_agent_port",
}
"""Options of `ray start` → arguments of `Cluster.add_node`. A node ends if its agents do not tell their ports
within 15 s, which a busy machine may not keep: they are given."""


def free_ports(count: int) -> list[int]:
    """Different; neither Ray's workers (10002–19999) nor outgoing connections (32768 and up) take them."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


class StartedNode:
    """`ray start --block`: a head at a port of its own, or a member of another's cluster."""

    def __init__(self, head: StartedNode | None = None, cpus: int = 2) -> None:
        self.address = head.address if head else f"127.0.0.1:{free_ports(1)[0]}"
        port = self.address.rpartition(":")[2]
        of_head = ["--head", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
        self._options = [f"--address={self.address}"] if head else of_head
        self._options += [f"--num-cpus={cpus}", "--object-store-memory=100000000"]

    def start(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # the path of a socket is short
        numbers = zip(AGENTS, free_ports(len(AGENTS)), strict=True)
        ports = [f"{option}={number}" for option, number in numbers]
        options = [*self._options, f"--temp-dir={self._folder}", *ports]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        said = Path(self._folder) / "said"
        with said.open("w") as stream:
            self._process = subprocess.Popen(command, env=OPEN, stdout=stream, stderr=stream)
        until = time.monotonic() + 240
        while "Ray runtime started" not in said.read_text():
            assert time.monotonic() < until and self._process.poll() is None, self._complaints()
            time.sleep(0.2)

    def _complaints(self) -> str:
        """What Ray said, and why its node manager ended."""
        files = [Path(self._folder) / "said", *Path(self._folder).glob("session_latest/logs/raylet.*")]
        return "\n".join(path.read_text()[:3000] for path in files)

    def kill(self, *names: str) -> None:
        """Processes of these names, or all."""
        started = psutil.Process(self._process.pid)
        for process in [*started.children(recursive=True), started]:
            with suppress(psutil.Error):
                if not names or process.name() in names:
                    process.kill()

    def end(self) -> None:
        if self._process.poll() is None:
            self.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
