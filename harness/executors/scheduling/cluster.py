"""What a Ray cluster offers to predictions and to timing; pure: the nodes are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from harness.adapter import Resources
from harness.suite.profiles import Exclusive
from harness.trial import Trial

POOL = "pool"  # the node label that assigns nodes to a purpose
TIMING = "timing"  # … and its value on nodes that time and do nothing else
KEPT_FREE = (TIMING, "head")  # predictions and training stay away from these
SLOT = "slot"  # a resource that nodes may offer, 1 each: timing takes all of it, a worker hardly any
GROWS = "autoscaled"  # a label, on the head say: nodes may be added; `gpu.timing`: with GPUs, and to time
WORKER_SLOT = 0.001  # so that a thousand workers fit on a node (Ray counts in steps of 0.0001)


@dataclass(frozen=True)
class Node:
    """One living node."""

    id: str
    host: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def name(self) -> str:
        return node_name(self.host, self.id)

    def room(self, kind: Resources) -> int:
        """How many workers of a kind the empty node holds."""
        gpus = self.resources.get("GPU", 0) / kind.gpu if kind.gpu else float("inf")
        return int(min(self.resources.get("CPU", 0) / kind.cpu, gpus) + 1e-6)


@dataclass(frozen=True)
class Cluster:
    """The living nodes."""

    nodes: tuple[Node, ...]

    @property
    def gpus(self) -> float:
        return sum(node.resources.get("GPU", 0) for node in self.nodes)

    @property
    def grows(self) -> frozenset[str]:
        """What the nodes are like that an autoscaler adds; Ray itself does not tell its drivers."""
        return frozenset(
            word for node in self.nodes for word in node.labels.get(GROWS, "").split(".") if word
        )

    def adds(self, gpu: bool) -> bool:
        """Whether an autoscaler may add nodes, with GPUs where these are needed."""
        return "gpu" in self.grows if gpu else bool(self.grows)

    @property
    def packed(self) -> list[Node]:
        """Nodes for predictions."""
        return [node for node in self.nodes if node.labels.get(POOL) not in KEPT_FREE]

    @property
    def slotted(self) -> bool:
        """Whether every node for predictions offers the slot."""
        return bool(self.packed) and all(SLOT in node.resources for node in self.packed)

    @property
    def offers_gpus(self) -> bool:
        """Whether it has some, or nodes with some may be added."""
        return self.gpus > 0 or "gpu" in self.grows

    def on_gpu(self, trial: Trial) -> bool:
        return trial.spec.device == "cuda" or (trial.spec.device == "auto" and self.offers_gpus)

    def kind(self, trial: Trial) -> Resources:
        """What a worker of this trial takes here."""
        return trial.resources if self.on_gpu(trial) else Resources(trial.resources.cpu, 0.0)

    def capacity(self, demand: Mapping[Resources, int]) -> dict[Resources, int]:
        """Workers of each kind that fit at once; those with GPUs first, none more than its demand."""
        found = dict.fromkeys(demand, 0)
        kinds = sorted(demand, key=lambda kind: (-kind.gpu, -kind.cpu))
        for node in self.packed:
            cpus, gpus = node.resources.get("CPU", 0.0), node.resources.get("GPU", 0.0)
            for kind in kinds:
                left = Node(node.id, node.host, {"CPU": cpus, "GPU": gpus}, node.labels)
                here = min(left.room(kind), demand[kind] - found[kind])
                found[kind] += here
                cpus, gpus = cpus - here * kind.cpu, gpus - here * kind.gpu
        return found

    def missing(self, trials: Sequence[Trial]) -> str | None:
        """Why one of the trials could never run here; None if all can."""
        for trial in trials:
            kind = self.kind(trial)
            if not any(node.room(kind) for node in self.packed) and not self.adds(kind.gpu > 0):
                lacking = _lacking(self.packed, kind)
                return f"{trial.name}: a worker needs {_words(kind)}; {lacking}{self._described()}"
            awaited = self.adds(self.on_gpu(trial)) and (TIMING in self.grows or not self._timing_pool())
            if trial.scenarios and self.timing_node(trial, {}) is None and not awaited:
                what = "a GPU" if self.on_gpu(trial) else "a CPU"
                where = f"labelled {POOL}={TIMING} " if self._timing_pool() else ""
                return (
                    f"{trial.name}: timing needs a node {where}with {what}; there is none{self._described()}"
                )
        return None

    @property
    def trainer(self) -> Resources:
        """What one worker of a training takes: a GPU where nodes for predictions have, or may have, some."""
        gpus = any(node.resources.get("GPU", 0) >= 1 for node in self.packed)
        return Resources(1.0, float(gpus or "gpu" in self.grows))

    def missing_to_train(self, workers: int) -> str | None:
        """Why so many workers could never train here; None if they can."""
        kind = self.trainer
        room = self.capacity({kind: workers})[kind]
        if room >= workers or self.adds(kind.gpu > 0):
            return None
        asked = f"training with {workers} worker{'s' if workers > 1 else ''}: each needs {_words(kind)}"
        where = f"nodes not labelled {POOL}={f' or {POOL}='.join(KEPT_FREE)} have room for {room}"
        return f"{asked}; {where}{self._described()}"

    def timing_node(self, trial: Trial, claims: Mapping[str, int]) -> Node | None:
        """The node to time a trial on: in the timing pool, or one for predictions where there is none.

        Of these the one of most CPUs, and of those the least claimed.

        None where no node fits, or the timing pool is to be started first.

        Args:
            claims: how many others want to time, by node id.
        """
        needed = "GPU" if self.on_gpu(trial) else "CPU"
        pool = self._timing_pool() or (self.packed if TIMING not in self.grows else ())
        fitting = [node for node in pool if node.resources.get(needed, 0) >= 1]
        if not fitting:
            return None
        return min(fitting, key=lambda node: (-node.resources.get("CPU", 0), claims.get(node.id, 0), node.id))

    def _timing_pool(self) -> list[Node]:
        return [node for node in self.nodes if node.labels.get(POOL) == TIMING]

    def _described(self) -> str:
        offers = [
            f"{node.name}{' ' + node.labels[POOL] if POOL in node.labels else ''}: "
            f"{node.resources.get('CPU', 0):g} CPU, {node.resources.get('GPU', 0):g} GPU"
            for node in self.nodes
        ]
        return f" (nodes: {'; '.join(offers[:8])}{' …' if len(offers) > 8 else ''})"


def node_name(host: str, node_id: str) -> str:
    """Host, and the beginning of Ray's id: several nodes may be on one host."""
    return f"{host}/{node_id[:8]}"


def cluster(raw: Iterable[Mapping[str, Any]]) -> Cluster:
    """From what `ray.nodes()` says."""
    return Cluster(
        tuple(
            Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"], node.get("Labels") or {})
            for node in raw
            if node["Alive"]
        )
    )


def away_from(nodes: Set[str]) -> dict[str, str]:
    """The label selector of predictions and training: not in the pools kept free, nor on these nodes."""
    selector = {POOL: f"!in({','.join(KEPT_FREE)})"}
    return selector | ({"ray.io/node-id": f"!in({','.join(sorted(nodes))})"} if nodes else {})


def reservation(node: Node, exclusive: Exclusive) -> dict[str, float]:
    """What a timed trial takes, so that nothing that Ray schedules can run beside it.

    A whole node: every CPU and GPU, since `num_gpus` alone keeps nobody else off the CPUs. One GPU: that, and
    its share of the CPUs.
    """
    cpus, gpus = node.resources.get("CPU", 0.0), node.resources.get("GPU", 0.0)
    slot = node.resources.get(SLOT, 0.0)
    if exclusive == "gpu":
        share = {"CPU": max(1.0, cpus // gpus), "GPU": 1.0}
        return share | ({SLOT: WORKER_SLOT} if slot else {})
    found = {"CPU": cpus, "GPU": gpus, SLOT: slot}
    return {name: amount for name, amount in found.items() if amount}


def _words(kind: Resources) -> str:
    gpu = f" and {kind.gpu:g} GPU" if kind.gpu else ""
    return f"{kind.cpu:g} CPU{gpu} on one node"


def _lacking(nodes: Sequence[Node], kind: Resources) -> str:
    if not nodes:
        return f"every node is labelled {POOL}={' or '.join(KEPT_FREE)}, which predictions stay away from"
    for resource, amount in (("GPU", kind.gpu), ("CPU", kind.cpu)):
        found = max(node.resources.get(resource, 0) for node in nodes)
        if found < amount:
            return f"the most {resource}s that a node for predictions has is {found:g}"
    return "no node for predictions has both"
