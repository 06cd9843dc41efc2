"""Training with several workers that share each batch: the training stage inside Ray Train."""

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Set
from typing import TypedDict

os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # keeps the meaning of relative paths in recipes

import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig

from harness.errors import InfrastructureError, describe
from harness.executors.ray.cluster_view import ClusterView
from harness.executors.ray.handles import ActorHandle
from harness.executors.ray.pool import START_DEADLINE_SECONDS, busy_cluster
from harness.executors.ray.training_relay import (
    MAX_LOST_WORKERS,
    POLL_SECONDS,
    train_relayed,
    train_worker,
)
from harness.executors.scheduling.cluster import Cluster, prediction_selector
from harness.recipe import CheckpointRef
from harness.stages.data_parallel import Replica

# RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, after which Ray Train counts a failure and starts its workers again
WORKER_GROUP_START_SECONDS = 60.0


class _WorkerConfig(TypedDict):
    """The arguments that Ray Train passes to each worker."""

    reference: CheckpointRef
    relay: ActorHandle


def train_together(
    reference: CheckpointRef,
    workers: int,
    view: ClusterView,
    requested_nodes: Callable[[], Mapping[str, int]],
    report: Callable[[str], None],
) -> None:
    """Train a missing checkpoint with `workers` workers that share each batch.

    Args:
        requested_nodes: Returns the nodes that are now requested for timing; training avoids them.

    Raises:
        HarnessError: The recipe is wrong, as in the training stage.
        InfrastructureError: The workers do not fit on the cluster or could not start in time, or workers were
            lost too often.
    """
    if reason := view.cluster.why_untrainable(workers):  # Ray would wait for ever
        raise InfrastructureError(reason)
    selector = prediction_selector(_wait_for_capacity(workers, view.cluster, requested_nodes))
    gpu = view.cluster.trainer_resources.gpu > 0

    def run_workers(relay: ActorHandle) -> None:
        with tempfile.TemporaryDirectory(prefix="harness-train-") as folder:
            try:
                _trainer(reference, workers, gpu, selector, relay, folder).fit()
            except (ray.train.TrainingFailedError, RayError) as error:  # RayError if the head is gone
                reason = describe(error)[:500]
                raise InfrastructureError(f"training {reference.name}: {reason}") from error

    train_relayed(reference, view, report, run_workers)


def _trainer(
    reference: CheckpointRef,
    workers: int,
    gpu: bool,
    selector: dict[str, str],
    relay: ActorHandle,
    folder: str,
) -> ray.train.torch.TorchTrainer:
    """Return Ray's trainer. It writes its own files to `folder`; checkpoints go through the relay."""
    return ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config=_WorkerConfig(reference=reference, relay=relay),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": 1, "GPU": int(gpu)},
            label_selector=selector,
        ),
        run_config=RunConfig(
            name=f"train-{reference.name}",
            storage_path=folder,
            failure_config=FailureConfig(
                max_failures=MAX_LOST_WORKERS,
                # Without this limit Ray Train tries to start its workers for ever.
                controller_failure_limit=int(START_DEADLINE_SECONDS / WORKER_GROUP_START_SECONDS),
            ),
        ),
    )


def _train_worker(config: _WorkerConfig) -> None:
    context = ray.train.get_context()
    if torch.cuda.is_available():  # workers on one node see all its GPUs
        torch.cuda.set_device(ray.train.torch.get_device())
    replica = Replica(context.get_world_rank(), context.get_world_size())
    train_worker(config["reference"], config["relay"], replica)


def _wait_for_capacity(
    workers: int, cluster: Cluster, requested_nodes: Callable[[], Mapping[str, int]]
) -> Set[str]:
    """Wait until the workers fit on the nodes that are not requested for timing.

    Returns:
        The requested nodes.
    """
    resources = cluster.trainer_resources
    end = time.monotonic() + START_DEADLINE_SECONDS
    while True:
        requested = requested_nodes().keys()
        rest = Cluster(tuple(node for node in cluster.nodes if node.id not in requested))
        fits = rest.capacity({resources: workers})[resources] >= workers
        if fits or not requested or cluster.may_add_nodes(resources.gpu > 0):
            return requested
        if time.monotonic() > end:
            raise busy_cluster("training")
        time.sleep(POLL_SECONDS)
