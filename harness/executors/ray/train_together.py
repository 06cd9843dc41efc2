"""Training on a cluster with Ray Train: the training stage in each of several workers."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Set
from typing import Any

os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # relative paths in recipes mean what they meant

import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig

from harness.errors import InfrastructureError, describe
from harness.executors.ray.cluster_view import View
from harness.executors.ray.pool import START_DEADLINE, crowded
from harness.executors.ray.training_relay import LOST, POLL, keep_training, work
from harness.executors.scheduling.cluster import Cluster, away_from
from harness.recipe import CheckpointRef
from harness.stages.data_parallel import Part

TRY = 60.0  # s: RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S, then Ray Train counts a failure and tries again


def train_together(
    reference: CheckpointRef,
    workers: int,
    view: View,
    claimed: Callable[[], Mapping[str, int]],
    report: Callable[[str], None],
) -> None:
    """Make a missing checkpoint with `workers` workers that share each batch.

    Args:
        claimed: the nodes on which others want to time, now; none of these is trained on.

    Raises:
        HarnessError: the recipe's fault, as of the training stage.
        InfrastructureError: the cluster has not that many places, or not for START_DEADLINE, or workers were
            lost too often.
    """
    if missing := view.cluster.missing_to_train(workers):  # Ray would wait for ever
        raise InfrastructureError(missing)
    place = away_from(_left_to_timing(workers, view.cluster, claimed))
    gpu = view.cluster.trainer.gpu > 0

    def fit(keeper: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="harness-train-") as notes:
            try:
                _trainer(reference, workers, gpu, place, keeper, notes).fit()
            except (ray.train.TrainingFailedError, RayError) as error:  # the second where the head is gone
                reason = describe(error)[:500]
                raise InfrastructureError(f"training {reference.name}: {reason}") from error

    keep_training(reference, view, report, fit)


def _trainer(
    reference: CheckpointRef, workers: int, gpu: bool, place: dict[str, str], keeper: Any, notes: str
) -> ray.train.torch.TorchTrainer:
    """Ray Train writes notes of its own to a folder; checkpoints go through the keeper."""
    return ray.train.torch.TorchTrainer(
        _work,
        train_loop_config={"reference": reference, "keeper": keeper},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": 1, "GPU": int(gpu)},
            label_selector=place,
        ),
        run_config=RunConfig(
            name=f"train-{reference.name}",
            storage_path=notes,
            failure_config=FailureConfig(
                max_failures=LOST,
                controller_failure_limit=int(START_DEADLINE / TRY),  # else it tries for ever
            ),
        ),
    )


def _work(config: dict[str, Any]) -> None:
    """One worker."""
    context = ray.train.get_context()
    if torch.cuda.is_available():  # workers on one node see all its GPUs
        torch.cuda.set_device(ray.train.torch.get_device())
    work(config["reference"], config["keeper"], Part(context.get_world_rank(), context.get_world_size()))


def _left_to_timing(workers: int, cluster: Cluster, claimed: Callable[[], Mapping[str, int]]) -> Set[str]:
    """The nodes on which others want to time, as soon as the rest has room."""
    kind = cluster.trainer
    until = time.monotonic() + START_DEADLINE
    while True:
        avoided = claimed().keys()
        rest = Cluster(tuple(node for node in cluster.nodes if node.id not in avoided))
        if not avoided or cluster.adds(kind.gpu > 0) or rest.capacity({kind: workers})[kind] >= workers:
            return avoided
        if time.monotonic() > until:
            raise crowded("training")
        time.sleep(POLL)
