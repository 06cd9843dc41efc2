"""The driver's view of the cluster: its nodes, and whether the head answers."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable

import ray

from harness.errors import InfrastructureError
from harness.executors.ray.handles import ActorHandle
from harness.executors.scheduling.cluster import cluster_from_ray

REFRESH_SECONDS = 5.0  # between pings of the head and listings of the nodes
HEAD_DEADLINE_SECONDS = 30.0  # without an answer until `refresh` raises an error
WATCHDOG_DEADLINE_SECONDS = 40.0  # until the watchdog ends the process; Ray would after 60, with code 1
RESUMES = "finished work is on disk, and the same command resumes the run"


class ClusterView:
    """The nodes as of the last refresh, and a watchdog for the head.

    Once the head is gone, Ray's own calls block for ever or end this process. Every call that needs the head
    is therefore preceded by a ping.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        context = ray.get_runtime_context()
        self._head_address = context.gcs_address
        self._own_node = context.get_node_id()
        self._refreshed = clock()
        self._silent_since: float | None = None
        self.cluster = cluster_from_ray(ray.nodes())
        self._closed = threading.Event()

    def start_watchdog(self) -> None:
        """Ping the head until `close`, for the times when the driver scores or waits inside Ray."""
        threading.Thread(target=self._watch, daemon=True).start()

    def close(self) -> None:
        """Stop the watchdog."""
        self._closed.set()

    def head_answers(self) -> bool:
        """Return whether the head answers now. If it does not, starting or killing an actor would block."""
        return is_listening(self._head_address)

    def kill(self, actor: ActorHandle) -> None:
        """Kill an actor if the head answers. Without the head, its actors end as well."""
        if self.head_answers():
            ray.kill(actor)

    def refresh(self, force: bool = False) -> None:
        """List the nodes again if REFRESH_SECONDS have passed, or at once with `force`.

        Raises:
            InfrastructureError: The head has not answered for HEAD_DEADLINE_SECONDS, or the node of this
                process is dead: Ray starts nothing more for it, and does not say so.
        """
        now = self._clock()
        if now - self._refreshed < REFRESH_SECONDS and not force:
            return
        self._refreshed = now
        silence = self._ping()
        if silence is None:
            self.cluster = cluster_from_ray(ray.nodes())
            if all(node.id != self._own_node for node in self.cluster.nodes):
                raise InfrastructureError(f"this process's node of the Ray cluster is dead; {RESUMES}")
        elif silence >= HEAD_DEADLINE_SECONDS:
            raise InfrastructureError(self._head_is_gone(HEAD_DEADLINE_SECONDS))

    def wait_for_head(self) -> None:
        """Refresh at once, and wait until the head answers, with the errors of `refresh`."""
        self.refresh(force=True)
        while self._silent_since is not None:
            time.sleep(1)
            self.refresh()

    def _ping(self) -> float | None:
        """Ping the head. Return seconds since the first unanswered ping, or None if it answered."""
        if self.head_answers():
            self._silent_since = None
            return None
        since = self._silent_since
        if since is None:
            since = self._silent_since = self._clock()
        return self._clock() - since

    def _watch(self) -> None:
        while not self._closed.wait(REFRESH_SECONDS):
            if (self._ping() or 0.0) >= WATCHDOG_DEADLINE_SECONDS:
                sys.stderr.write(f"error: {self._head_is_gone(WATCHDOG_DEADLINE_SECONDS)}\n")
                sys.stderr.flush()
                os._exit(InfrastructureError.exit_code)  # the main thread may wait for the head for ever

    def _head_is_gone(self, seconds: float) -> str:
        head = f"the head of the Ray cluster ({self._head_address})"
        return f"{head} has not answered for {seconds:g} s; {RESUMES}"


def is_listening(address: str, timeout: float = 2.0) -> bool:
    """Return whether HOST:PORT accepts a connection within `timeout` seconds."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except OSError:
        return False
    return True
