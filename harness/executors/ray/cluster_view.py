"""What the driver sees of the cluster: its nodes, and whether the head still answers."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import ray

from harness.errors import InfrastructureError
from harness.executors.scheduling.cluster import cluster

LOOK = 5.0  # s between looks at the nodes
HEAD_DEADLINE = 30.0  # s without an answer after which a driver that looks is told
LAST_DEADLINE = 40.0  # s after which one that does not is ended: after 60 Ray does that, with exit code 1


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
        self._closed = threading.Event()

    def watch(self) -> None:
        """Knock until `close` where the driver does not: it scores, or waits inside of Ray."""
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(LOOK):
            if (self._silence() or 0.0) >= LAST_DEADLINE:
                sys.stderr.write(f"error: {self._gone(LAST_DEADLINE)}\n")
                sys.stderr.flush()
                os._exit(InfrastructureError.exit_code)  # whatever it waits for will never come

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
        silence = self._silence()
        if silence is None:
            self.cluster = cluster(ray.nodes())
        elif silence >= HEAD_DEADLINE:
            raise InfrastructureError(self._gone(HEAD_DEADLINE))

    def _silence(self) -> float | None:
        """Knock; s since the first of the knocks that were not answered, None after one that was."""
        if self.answering():
            self._silent = None
            return None
        since = self._silent
        if since is None:
            since = self._silent = self._clock()
        return self._clock() - since

    def _gone(self, seconds: float) -> str:
        return (
            f"the head of the Ray cluster ({self._head}) has not answered for {seconds:g} s; "
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
