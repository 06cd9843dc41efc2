"""Requests for timing nodes.

Other runs on the cluster make room on a requested node, so that timing never starves. Ray's own accounting
(`cluster.reservation`) keeps timed trials apart even if requests are lost. A request only asks other runs to
leave a node. It must be renewed, so that the requests of a dead driver expire.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from harness.executors.ray.handles import ObjectRef
from harness.executors.scheduling.cluster import POOL_LABEL, TIMING_POOL

LEASE_SECONDS = 30.0  # lifetime of a request that is not renewed
RENEWAL_SECONDS = 5.0  # between renewals
NAMESPACE = "harness"


class TimingRequests:
    """The node that each run requests, with the end of its lease."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, tuple[str, float]] = {}  # run → node and end of the lease

    def request(self, run: str, node: str) -> None:
        """Request a node for a run, or renew the request. It replaces the run's earlier request."""
        self._requests[run] = (node, self._clock() + LEASE_SECONDS)

    def withdraw(self, run: str) -> None:
        self._requests.pop(run, None)

    def requested_nodes(self) -> dict[str, int]:
        """Return the number of runs that request each node."""
        now = self._clock()
        self._requests = {run: (node, end) for run, (node, end) in self._requests.items() if end > now}
        return dict(Counter(node for node, _ in self._requests.values()))


class ClusterTimingRequests:
    """The requests of all runs on the cluster, in one small actor that outlives each of them.

    If the actor is lost, timing waits until other runs have finished, and is still alone on its node.
    """

    def __init__(self) -> None:
        outside = {POOL_LABEL: f"!in({TIMING_POOL})"}
        actor = ray.remote(num_cpus=0, max_restarts=-1, label_selector=outside)(TimingRequests)
        options = {"name": "timing requests", "namespace": NAMESPACE, "lifetime": "detached"}
        self._actor = actor.options(**options, get_if_exists=True).remote()
        context = ray.get_runtime_context()
        self._run = context.get_job_id() + context.get_worker_id()
        self._pending: ObjectRef | None = None
        self._latest: dict[str, int] = {}
        self._withdrawn = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)
        self._node: str | None = None

    def latest_requested_nodes(self) -> dict[str, int]:
        """Return the number of runs per requested node as of the last answer, without waiting."""
        if self._pending is None:
            self._pending = self._actor.requested_nodes.remote()
        elif ray.wait([self._pending], timeout=0)[0]:
            try:
                self._latest = ray.get(self._pending)
            except RayError:
                self._latest = {}
            self._pending = None
        return self._latest

    def requested_nodes(self, timeout: float = 5.0) -> dict[str, int]:
        """Ask for the number of runs per requested node; return {} without an answer in `timeout` seconds."""
        try:
            return dict(ray.get(self._actor.requested_nodes.remote(), timeout=timeout))
        except RayError:
            return {}

    def request(self, node: str) -> None:
        """Request a node until `withdraw`. It replaces the node requested before."""
        first = self._node is None
        self._node = node
        self._actor.request.remote(self._run, node)
        if first:
            self._renewing.start()

    def withdraw(self) -> None:
        self._withdrawn.set()
        if self._node is not None:
            self._renewing.join()
            self._actor.withdraw.remote(self._run)

    def _renew(self) -> None:
        while not self._withdrawn.wait(RENEWAL_SECONDS):
            self._actor.request.remote(self._run, self._node)
