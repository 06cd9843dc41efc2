"""Who wants to time on which node: lets other suites on the cluster make room, so that timing never starves.

What keeps trials apart is Ray's own accounting (`cluster.reservation`): it holds whatever becomes of this.
A claim only asks for politeness. It must be renewed, so that those of a driver that died end by themselves.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from harness.executors.scheduling.cluster import POOL, TIMING

LEASE = 30.0  # s that a claim lasts without being renewed
RENEWED = 5.0  # s between renewals
NAMESPACE = "harness"


class Claims:
    """Claimant → node, until its lease ends."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._claims: dict[str, tuple[str, float]] = {}

    def claim(self, claimant: str, node: str) -> None:
        """Ask for a node, or go on asking."""
        self._claims[claimant] = (node, self._clock() + LEASE)

    def withdraw(self, claimant: str) -> None:
        self._claims.pop(claimant, None)

    def claimed(self) -> dict[str, int]:
        """Node → how many want it."""
        now = self._clock()
        self._claims = {who: claim for who, claim in self._claims.items() if claim[1] > now}
        return dict(Counter(node for node, _ in self._claims.values()))


class ClusterClaims:
    """The claims of all suites on the cluster, in one small actor that outlives each of them.

    Everything here is best effort: without the actor timing waits as long as others work, and is as alone.
    """

    def __init__(self) -> None:
        away = {POOL: f"!in({TIMING})"}
        actor = ray.remote(num_cpus=0, max_restarts=-1, label_selector=away)(Claims)
        options = {"name": "timing claims", "namespace": NAMESPACE, "lifetime": "detached"}
        self._actor: Any = actor.options(**options, get_if_exists=True).remote()
        self._claimant = ray.get_runtime_context().get_job_id() + ray.get_runtime_context().get_worker_id()
        self._pending: Any = None
        self._last: dict[str, int] = {}
        self._stop = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._node: str | None = None

    def claimed(self) -> dict[str, int]:
        """Node → how many want it, as of a moment ago; never waits."""
        if self._pending is None:
            self._pending = self._actor.claimed.remote()
        elif ray.wait([self._pending], timeout=0)[0]:
            try:
                self._last = ray.get(self._pending)
            except RayError:
                self._last = {}
            self._pending = None
        return self._last

    def look(self, seconds: float = 5.0) -> dict[str, int]:
        """As `claimed`, but waits for an answer."""
        try:
            return dict(ray.get(self._actor.claimed.remote(), timeout=seconds))
        except RayError:
            return {}

    def hold(self, node: str) -> None:
        """Claim a node until `release`; another one than before replaces it."""
        first = self._node is None
        self._node = node
        self._actor.claim.remote(self._claimant, node)
        if first:
            self._renewing.start()

    def release(self) -> None:
        self._stop.set()
        if self._node is not None:
            self._renewing.join()
            self._actor.withdraw.remote(self._claimant)

    def _renew(self) -> None:
        while not self._stop.wait(RENEWED):
            self._actor.claim.remote(self._claimant, self._node)
