"""Workers that train together take the same steps and decisions as a single worker."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import distributed

from harness.adapter import ADAPTERS, Runtime, TrainableAdapter
from harness.checkpoint import Checkpoint, load, load_into
from harness.datasets.dataset import DATASETS, Dataset, DatasetOptions
from harness.errors import UsageError
from harness.recipe import Recipe
from harness.stages.data_parallel import Replica
from harness.stages.train import train
from harness.task import Sample


class Ragged(Dataset):
    """Masks with ignored pixels, so that every image has a different weight."""

    tasks = ("segmentation",)
    splits = ("train", "validation")
    Options = DatasetOptions
    classes = ("dark", "bright")
    fingerprint = "ragged"

    @property
    def metric_options(self) -> dict[str, Any]:
        return {"ignore_index": 255}

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Sample:
        generator = np.random.default_rng([index, self.split == "train"])
        mask = generator.integers(0, 2, (4, 4)).astype(np.uint8)
        image = np.repeat(mask[..., None] * 60 + generator.integers(0, 120, (4, 4, 1)), 3, axis=2)
        mask[: generator.integers(0, 4)] = 255
        return Sample(f"{index:04d}", image.astype(np.uint8), mask)


class Linear(TrainableAdapter):
    """Logistic regression per pixel, without random operations and without batch statistics."""

    task = "segmentation"
    classes = ("dark", "bright")
    loss_unit = "pixels"

    def build(self, train: Any) -> None:
        self.module = torch.nn.Linear(3, 2)
        self.module.unused = torch.nn.Parameter(torch.ones(2))  # used by no batch

    def load(self, checkpoint: Any) -> None:
        self.build(None)
        load_into(self.module, checkpoint, "linear")

    def preprocess(self, samples: Any) -> torch.Tensor:
        return torch.from_numpy(np.stack([sample.input for sample in samples])).float() / 255

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.module(batch)

    def postprocess(self, raw: torch.Tensor, batch: Any) -> list[Any]:
        return list(raw.argmax(dim=-1).byte().numpy())

    def training_batch(self, samples: Any, generator: np.random.Generator) -> Any:
        masks = np.stack([sample.target for sample in samples])
        return self.preprocess(samples), torch.from_numpy(masks).long()

    def loss(self, batch: Any) -> dict[str, torch.Tensor]:
        pixels, masks = batch
        scores = self.module(pixels).flatten(0, 2)
        return {"pixels": torch.nn.functional.cross_entropy(scores, masks.flatten(), ignore_index=255)}

    def training_units(self, batch: Any) -> dict[str, int]:
        return {"pixels": int((batch[1] != 255).sum())}

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.module.state_dict(), adapter="", options={}, classes=self.classes)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    adapters, datasets = ADAPTERS.get, DATASETS.get
    monkeypatch.setattr(ADAPTERS, "get", lambda name: Linear if name == "linear" else adapters(name))
    monkeypatch.setattr(DATASETS, "get", lambda name: Ragged if name == "ragged" else datasets(name))


def recipe(**changes: Any) -> Recipe:
    content = {
        "adapter": "linear", "task": "segmentation", "dataset": {"name": "ragged"}, "steps": 24,
        "batch_size": 8, "learning_rate": 0.05, "warmup_steps": 3, "metric": "iou", "validate_every": 6,
        "validation_size": 8,
    }  # fmt: skip
    return Recipe.model_validate(content | changes)


def worker(rank: int, world_size: int, store: str, folder: Path, plan: Recipe) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world_size)
    train(
        plan,
        folder / str(rank) / "w.safetensors",
        Runtime(),
        report=[].append,
        replica=Replica(rank, world_size),
    )


def train_together(folder: Path, world_size: int = 2, **changes: Any) -> Path:
    """Train in forked processes and return the folder of the leader's files."""
    context = multiprocessing.get_context("fork")
    jobs = [
        context.Process(
            target=worker, args=(rank, world_size, str(folder / "store"), folder, recipe(**changes))
        )
        for rank in range(world_size)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
        assert job.exitcode == 0
    return folder / "0"


def train_alone(folder: Path, **changes: Any) -> Any:
    return train(recipe(**changes), folder / "w.safetensors", Runtime(), report=[].append)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load(folder / "w.safetensors").tensors)


@pytest.mark.parametrize("world_size", [2, 4])
def test_weights_and_losses_equal_those_of_a_single_worker(tmp_path: Path, world_size: int) -> None:
    single = train_alone(tmp_path / "single")
    folder = train_together(tmp_path, world_size)
    for name, tensor in weights(tmp_path / "single").items():
        torch.testing.assert_close(weights(folder)[name], tensor, rtol=2e-3, atol=1e-5)  # stored in fp16
    provenance = yaml.safe_load((folder / "w.yaml").read_text())["provenance"]
    assert provenance["workers"] == world_size
    losses = [row["loss"] for row in provenance["history"]]
    assert losses == pytest.approx([row["loss"] for row in single.history], abs=2e-5)


def test_unweighted_shares_would_give_other_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail, because the shares of a batch differ in pixels."""
    train_alone(tmp_path / "single")
    monkeypatch.setattr(Linear, "loss_unit", None)
    folder = train_together(tmp_path)
    gap = max(float((weights(folder)[n] - t).abs().max()) for n, t in weights(tmp_path / "single").items())
    assert gap > 1e-3


def test_only_the_leader_writes(tmp_path: Path) -> None:
    train_together(tmp_path)
    assert sorted(path.name for path in (tmp_path / "0").iterdir()) == ["w.safetensors", "w.yaml"]
    assert not (tmp_path / "1").exists()


def test_all_workers_stop_when_the_leader_runs_out_of_patience(tmp_path: Path) -> None:
    folder = train_together(tmp_path, steps=600, patience=2)
    assert yaml.safe_load((folder / "w.yaml").read_text())["provenance"]["steps"] < 600


def test_batches_that_cannot_be_divided_evenly_are_refused() -> None:
    with pytest.raises(UsageError, match="3 workers cannot share batches of 8 evenly"):
        Replica(0, 3).share(range(8))


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_the_shares_of_a_batch_make_up_the_batch(world_size: int) -> None:
    shares = [Replica(rank, world_size).share(range(8)) for rank in range(world_size)]
    assert sorted(item for share in shares for item in share) == list(range(8))


def test_the_leader_has_the_seed_of_a_single_worker() -> None:
    assert Replica(0, 2).seed(7, 1, 3) == Replica().seed(7, 1, 3) == [7, 1, 3]
    assert Replica(1, 2).seed(7, 1, 3) != [7, 1, 3]
