"""The capacity of a Ray cluster for predictions, training and timing. Pure: the nodes are passed in."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from harness.adapter import Resources
from harness.scenarios.settings import Exclusive
from harness.trial import Trial

POOL_LABEL = "pool"  # the node label that assigns a node to a purpose …
TIMING_POOL = "timing"  # … and its value on nodes that only time
RESERVED_POOLS = (TIMING_POOL, "head")  # predictions and training avoid these
AUTOSCALED_LABEL = "autoscaled"  # on any node: what an autoscaler may add, such as `gpu.timing`
SLOT = "slot"  # a resource that a node may offer once: timing takes all of it, a worker WORKER_SLOT
WORKER_SLOT = 0.001  # a thousand workers fit on a node; Ray counts in steps of 0.0001


@dataclass(frozen=True)
class Node:
    """A node that is alive, with its total resources."""

    id: str
    host: str
    resources: Mapping[str, float]
    labels: Mapping[str, str]

    @property
    def name(self) -> str:
        return node_name(self.host, self.id)

    @property
    def cpus(self) -> float:
        return self.resources.get("CPU", 0.0)

    @property
    def gpus(self) -> float:
        return self.resources.get("GPU", 0.0)

    def capacity(self, resources: Resources) -> int:
        """Return how many workers with these resources fit on the node when it is empty."""
        return _workers_that_fit(self.cpus, self.gpus, resources)


@dataclass(frozen=True)
class Cluster:
    """The nodes that are alive."""

    nodes: tuple[Node, ...]

    @property
    def gpus(self) -> float:
        return sum(node.gpus for node in self.nodes)

    @property
    def autoscaled(self) -> frozenset[str]:
        """Kinds of nodes that an autoscaler may add, from labels because Ray does not tell its drivers."""
        values = (node.labels.get(AUTOSCALED_LABEL, "") for node in self.nodes)
        return frozenset(word for value in values for word in value.split(".") if word)

    @property
    def prediction_nodes(self) -> list[Node]:
        """Nodes for predictions and training."""
        return [node for node in self.nodes if node.labels.get(POOL_LABEL) not in RESERVED_POOLS]

    @property
    def offers_slots(self) -> bool:
        """Return whether every prediction node offers the slot."""
        nodes = self.prediction_nodes
        return bool(nodes) and all(SLOT in node.resources for node in nodes)

    @property
    def trainer_resources(self) -> Resources:
        """Resources of a training worker: a GPU if prediction nodes have GPUs or may be added with some."""
        gpus = any(node.gpus >= 1 for node in self.prediction_nodes)
        return Resources(1.0, float(gpus or "gpu" in self.autoscaled))

    def may_add_nodes(self, gpu: bool) -> bool:
        """Return whether an autoscaler may add nodes, with GPUs if `gpu`."""
        return "gpu" in self.autoscaled if gpu else bool(self.autoscaled)

    def runs_on_gpu(self, trial: Trial) -> bool:
        """Return whether a trial runs on a GPU: `auto` does if the cluster has GPUs or may add some."""
        device = trial.spec.device
        return device == "cuda" or (device == "auto" and (self.gpus > 0 or "gpu" in self.autoscaled))

    def worker_resources(self, trial: Trial) -> Resources:
        """Return the resources of a worker of this trial on this cluster."""
        return trial.resources if self.runs_on_gpu(trial) else Resources(trial.resources.cpu, 0.0)

    def capacity(self, demand: Mapping[Resources, int]) -> dict[Resources, int]:
        """Return how many workers with each of these resources fit at once, at most the demand.

        Workers with GPUs are placed first.
        """
        placed = dict.fromkeys(demand, 0)
        largest_first = sorted(demand, key=lambda resources: (-resources.gpu, -resources.cpu))
        for node in self.prediction_nodes:
            cpus, gpus = node.cpus, node.gpus
            for resources in largest_first:
                fit = _workers_that_fit(cpus, gpus, resources)
                fit = min(fit, demand[resources] - placed[resources])
                placed[resources] += fit
                cpus, gpus = cpus - fit * resources.cpu, gpus - fit * resources.gpu
        return placed

    def why_infeasible(self, trials: Sequence[Trial]) -> str | None:
        """Return why one of the trials can never run here, or None if all can."""
        for trial in trials:
            if reason := self._why_no_worker(trial.name, self.worker_resources(trial)):
                return reason
            if trial.scenarios and not self._can_time(trial):
                device = "a GPU" if self.runs_on_gpu(trial) else "a CPU"
                label = f" labelled {POOL_LABEL}={TIMING_POOL}" if self._timing_pool() else ""
                node = f"a node{label} with {device}"
                return f"{trial.name}: timing needs {node}; there is none{self._described()}"
        return None

    def why_untrainable(self) -> str | None:
        """Return why nothing can ever train here, or None if a process fits."""
        return self._why_no_worker("training", self.trainer_resources)

    def timing_node(self, trial: Trial, requested_nodes: Mapping[str, int]) -> Node | None:
        """Return the node to time a trial on, or None if no node fits or the timing pool has yet to start.

        The node is in the timing pool, or is a prediction node if the cluster has no timing pool. The node
        with the most CPUs is chosen, and among equal ones the least requested.

        Args:
            requested_nodes: Number of other runs that request each node, by node id.
        """
        nodes = self._timing_pool()
        if not nodes and TIMING_POOL not in self.autoscaled:
            nodes = self.prediction_nodes
        device = "GPU" if self.runs_on_gpu(trial) else "CPU"
        fitting = [node for node in nodes if node.resources.get(device, 0) >= 1]
        if not fitting:
            return None
        return min(fitting, key=lambda node: (-node.cpus, requested_nodes.get(node.id, 0), node.id))

    def _why_no_worker(self, work: str, resources: Resources) -> str | None:
        """Return why no worker with these resources can ever start here, or None if one can."""
        fits = any(node.capacity(resources) for node in self.prediction_nodes)
        if fits or self.may_add_nodes(resources.gpu > 0):
            return None
        shortage = _shortage(self.prediction_nodes, resources)
        return f"{work}: a worker needs {_describe(resources)}; {shortage}{self._described()}"

    def _can_time(self, trial: Trial) -> bool:
        """Return whether there is a node to time this trial on, or one may be added."""
        if self.timing_node(trial, {}) is not None:
            return True
        timing_nodes_come = TIMING_POOL in self.autoscaled or not self._timing_pool()
        return timing_nodes_come and self.may_add_nodes(self.runs_on_gpu(trial))

    def _timing_pool(self) -> list[Node]:
        return [node for node in self.nodes if node.labels.get(POOL_LABEL) == TIMING_POOL]

    def _described(self) -> str:
        """Return the first nodes and their resources, in parentheses."""
        nodes = [
            f"{node.name}{' ' + node.labels[POOL_LABEL] if POOL_LABEL in node.labels else ''}: "
            f"{node.cpus:g} CPU, {node.gpus:g} GPU"
            for node in self.nodes
        ]
        return f" (nodes: {'; '.join(nodes[:8])}{' …' if len(nodes) > 8 else ''})"


def node_name(host: str, node_id: str) -> str:
    """Return the host with the beginning of Ray's id, since several nodes may be on one host."""
    return f"{host}/{node_id[:8]}"


def cluster_from_ray(nodes: Iterable[Mapping[str, Any]]) -> Cluster:
    """Return the nodes that are alive among those that `ray.nodes()` lists."""
    return Cluster(
        tuple(
            Node(node["NodeID"], node["NodeManagerHostname"], node["Resources"], node.get("Labels") or {})
            for node in nodes
            if node["Alive"]
        )
    )


def prediction_selector(excluded_nodes: Set[str]) -> dict[str, str]:
    """Return the label selector for predictions and training: no reserved pools, none of these nodes."""
    selector = {POOL_LABEL: f"!in({','.join(RESERVED_POOLS)})"}
    if excluded_nodes:
        selector["ray.io/node-id"] = f"!in({','.join(sorted(excluded_nodes))})"
    return selector


def reservation(node: Node, exclusive: Exclusive) -> dict[str, float]:
    """Return the resources that a timed trial takes, so that Ray can schedule nothing beside it.

    For a whole node, these are all CPUs and GPUs, since `num_gpus` alone does not reserve the CPUs. For one
    GPU, they are that GPU and its share of the CPUs.
    """
    slot = node.resources.get(SLOT, 0.0)
    if exclusive == "gpu":
        share = {"CPU": max(1.0, node.cpus // node.gpus), "GPU": 1.0}
        return share | ({SLOT: WORKER_SLOT} if slot else {})
    everything = {"CPU": node.cpus, "GPU": node.gpus, SLOT: slot}
    return {name: amount for name, amount in everything.items() if amount}


def _workers_that_fit(cpus: float, gpus: float, resources: Resources) -> int:
    by_gpus = gpus / resources.gpu if resources.gpu else float("inf")
    return int(min(cpus / resources.cpu, by_gpus) + 1e-6)  # three thirds of a GPU are three workers


def _describe(resources: Resources) -> str:
    gpu = f" and {resources.gpu:g} GPU" if resources.gpu else ""
    return f"{resources.cpu:g} CPU{gpu} on one node"


def _shortage(nodes: Sequence[Node], resources: Resources) -> str:
    """Return which resource these prediction nodes lack for a worker."""
    if not nodes:
        pools = f" or {POOL_LABEL}=".join(RESERVED_POOLS)
        return f"every node is labelled {POOL_LABEL}={pools}, and none is left for predictions and training"
    for name, amount in (("GPU", resources.gpu), ("CPU", resources.cpu)):
        most = max(node.resources.get(name, 0) for node in nodes)
        if most < amount:
            return f"no prediction node has more than {most:g} {name}"
    return "no prediction node has both"
