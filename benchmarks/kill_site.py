"""A cluster of several nodes on this machine, and the processes of runs on it that may be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field

# Ray gives the parts of a node 30 s to start, which is too short on a busy machine.
os.environ |= {"RAY_raylet_start_wait_time_s": "60", "RAY_agent_register_timeout_ms": "180000"}

import numpy as np
import psutil
from ray.cluster_utils import Cluster
from tracking_server import TrackingServer, free_ports

WORKING = "ray::phrases/"  # begins the title of a worker that has a shard: `ray::phrases/VARIANT START–STOP`
STARTED = "ray::Worker"  # begins the title of a worker that starts or is idle
MAX_SERVER_DOWNTIME_SECONDS = 5.0
START_TRIES = 5  # of a node
MEMBERS = 2  # nodes that predict, of one CPU each; the head only serves them


def start_cluster() -> Cluster:
    """Start a head without CPUs, and the nodes that predict."""
    cluster = Cluster()
    add_node(cluster, include_dashboard=False, **small(cpus=0))
    for _ in range(MEMBERS):
        add_node(cluster, **small(cpus=1))
    return cluster


def add_node(cluster: Cluster, **options: object) -> None:
    """Start a node, several times if necessary: it ends if its agents do not start within 15 s."""
    for last in (*[False] * (START_TRIES - 1), True):
        try:
            cluster.add_node(**options)
            return
        except Exception:
            if last:
                raise


def small(cpus: int) -> dict[str, int]:
    """Return the options of a small node, with fixed ports for its agents.

    A node ends if its agents do not report their own ports within 15 s.
    """
    agents = ("metrics_agent", "metrics_export", "runtime_env_agent", "dashboard_agent_listen")
    numbers = zip(agents, free_ports(len(agents)), strict=True)
    ports = {f"{agent}_port": number for agent, number in numbers}
    return {"num_cpus": cpus, "object_store_memory": 100 << 20, **ports}


@dataclass
class Site:
    """The cluster, and the tracking server if runs log to one."""

    server: TrackingServer | None = None
    cluster: Cluster = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = start_cluster()

    def restart(self) -> None:
        """Start another cluster, after the head of this one was killed."""
        self.cluster.shutdown()
        self.cluster = start_cluster()

    def close(self) -> None:
        self.cluster.shutdown()
        if self.server:
            self.server.kill()

    def strike(self, victim: str, driver: subprocess.Popen[bytes], random: np.random.Generator) -> bool:
        """Kill a victim; return whether it died while the driver was alive, or as the driver."""
        if victim == "driver":
            os.killpg(driver.pid, signal.SIGKILL)
            return driver.wait() == -signal.SIGKILL
        if victim == "worker":
            return self._kill_worker(driver, random)
        alive = driver.poll() is None
        if victim == "server" and self.server:
            killed = self.server.kill()
            time.sleep(random.uniform(0, MAX_SERVER_DOWNTIME_SECONDS))
            self.server.start()
            return killed and alive
        nodes = sorted(self.cluster.worker_nodes, key=lambda node: node.node_id)
        self.replace_node(nodes[int(random.integers(len(nodes)))])
        return alive

    def replace_node(self, node: object) -> None:
        """Kill what is left of a node, and add another one."""
        self.cluster.remove_node(node, allow_graceful=False)
        add_node(self.cluster, **small(cpus=1))

    def _kill_worker(self, driver: subprocess.Popen[bytes], random: np.random.Generator) -> bool:
        while driver.poll() is None:
            workers = self.workers((WORKING, STARTED))
            if workers:  # which take seconds to start
                chosen = workers[int(random.integers(len(workers)))]
                chosen.kill()
                return bool(psutil.wait_procs([chosen], timeout=10)[0]) and driver.poll() is None
            time.sleep(0.05)
        return False

    def workers(self, titles: tuple[str, ...], node: object = None) -> list[psutil.Process]:
        """Return the processes that predict, ordered by their ids.

        Args:
            titles: The beginnings of their titles.
            node: Their node; None for all nodes.
        """
        nodes = [node] if node else self.cluster.worker_nodes
        children = [child for node in nodes for child in raylet_of(node).children(recursive=True)]
        return [
            child
            for child in sorted(children, key=lambda child: child.pid)
            if title(child).startswith(titles)
        ]


def raylet_of(node: object) -> psutil.Process:
    """Return the process of a node that starts its workers."""
    return psutil.Process(node.all_processes["raylet"][0].process.pid)  # type: ignore[attr-defined]


def title(process: psutil.Process) -> str:
    """Return how a process calls itself; an empty text if it has ended."""
    with suppress(psutil.Error, IndexError):
        return str(process.cmdline()[0])
    return ""
