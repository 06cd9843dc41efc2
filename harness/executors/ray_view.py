"""What the driver sees of the cluster: its nodes, and whether the head still answers."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import ray

from harness.errors import InfrastructureError
from harness.executors.cluster import cluster

LOOK = 5.0  # s between looks at the nodes
HEAD_DEADLINE = 30.0  # s without an answer; after 60 Ray ends the driver's process without a word


class View:
    """The nodes as of a few seconds ago.

    Ray's own calls wait without end, or end this process, where the head is gone: it is knocked at first.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._head = ray.get_runtime_context().gcs_address
        self._looked = clock()
        self._silent: float | None = None  # since when the head does not answer
        self.cluster = cluster(ray.nodes())

    def answering(self) -> bool:
        """Whether the head does at this moment; if not, starting or killing an actor would block."""
        return answers(self._head)

    def end(self, actor: Any) -> None:
        """Kill an actor, where the head still answers; with the head its actors end as well."""
        if self.answering():
            ray.kill(actor)

    def refresh(self, at_once: bool = False) -> None:
        """Look again if that is due, or is to be done at once.

        Raises:
            InfrastructureError: the head has not answered for long.
        """
        now = self._clock()
        if now - self._looked < LOOK and not at_once:
            return
        self._looked = now
        if self.answering():
            self._silent = None
            self.cluster = cluster(ray.nodes())
            return
        self._silent = now if self._silent is None else self._silent
        if now - self._silent >= HEAD_DEADLINE:
            raise InfrastructureError(
                f"the head of the Ray cluster ({self._head}) has not answered for {HEAD_DEADLINE:g} s; "
                "what is done is on disk, the same command goes on from here"
            )

    def wait_for_head(self) -> None:
        """Look at once, and return when the head answers.

        Raises:
            InfrastructureError: as `refresh`.
        """
        self.refresh(at_once=True)
        while self._silent is not None:
            time.sleep(1)
            self.refresh()


def answers(address: str, seconds: float = 2.0) -> bool:
    """Whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except OSError:
        return False
    return True
