"""Nodes started by `ray start`, each with its own processes and folder, that can be killed and restarted."""

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

WITHOUT_TOKENS = {
    **os.environ,
    "RAY_AUTH_MODE": "disabled",
    "PYTHONUNBUFFERED": "1",
}  # which `ray start` requires
ATTEMPTS = 3
AGENTS = {
    "--metrics-export-port": "metrics_export_port",
    "--runtime-env-agent-port": "runtime_env_agent_port",
    "--dashboard-agent-listen-port": "dashboard_agent_listen_port",
    "--dashboard-agent-grpc-port": "metrics_agent_port",
}
"""Options of `ray start` → arguments of `Cluster.add_node`, for the ports of a node's agents.

The ports are fixed, since a node ends if its agents do not report their own within 15 s, and a busy machine
may take longer."""


def free_ports(count: int) -> list[int]:
    """Return different free ports that neither Ray's workers (10002–19999) nor clients (from 32768) take."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)


class StartedNode:
    """A process of `ray start --block`: a head with its own port, or a node that joins a head."""

    def __init__(self, head: StartedNode | None = None, cpus: int = 2) -> None:
        self.address = head.address if head else f"127.0.0.1:{free_ports(1)[0]}"
        port = self.address.rpartition(":")[2]
        of_head = ["--head", f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
        self._options = [f"--address={self.address}"] if head else of_head
        self._options += [f"--num-cpus={cpus}", "--object-store-memory=100000000"]

    def start(self) -> None:
        """Start the node; on a busy machine, Ray sometimes gives up, and the next attempt works."""
        for _ in range(ATTEMPTS):
            if self._starts():
                return
            failure = self._failure()
            self.end()
        raise AssertionError(failure)

    def _starts(self) -> bool:
        """Start Ray once, and return whether it runs."""
        self._folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # the path of a socket must be short
        numbers = zip(AGENTS, free_ports(len(AGENTS)), strict=True)
        ports = [f"{option}={number}" for option, number in numbers]
        options = [*self._options, f"--temp-dir={self._folder}", *ports]
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        output = Path(self._folder) / "output"
        with output.open("w") as stream:
            self._process = subprocess.Popen(command, env=WITHOUT_TOKENS, stdout=stream, stderr=stream)
        until = time.monotonic() + 240
        while "Ray runtime started" not in output.read_text():
            if time.monotonic() > until or self._process.poll() is not None:
                return False
            time.sleep(0.2)
        return True

    def _failure(self) -> str:
        """Return Ray's output, and the logs of its node manager."""
        files = [Path(self._folder) / "output", *Path(self._folder).glob("session_latest/logs/raylet.*")]
        return "\n".join(path.read_text()[:3000] for path in files)

    def kill(self, *names: str) -> None:
        """Kill the node's processes with these names, or all of them."""
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
