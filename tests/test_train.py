"""The training stage, with an adapter whose model is a few lines long."""

import dataclasses
import math
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from harness import checkpoint as checkpoints
from harness.adapter import ADAPTERS, Runtime, TrainableAdapter
from harness.checkpoint import Checkpoint
from harness.datasets.dataset import DATASETS, Dataset, DatasetOptions
from harness.errors import HarnessError, UsageError
from harness.recipe import Recipe, read_recipe
from harness.stages.schedule import batch_indices, learning_rate
from harness.stages.train import train
from harness.stages.training_state import training_lock
from harness.task import Sample

RUNTIME = Runtime()


class HalvesOptions(DatasetOptions):
    size: int = 40


class Halves(Dataset):
    """A data set of 4×4 masks whose left columns are class 1, and images that are bright there."""

    tasks = ("segmentation",)
    splits = ("train", "validation")
    Options = HalvesOptions
    classes = ("dark", "bright")

    @property
    def fingerprint(self):
        return f"halves {self.options.size} {self.split}"

    def __len__(self):
        return self.options.size

    def __getitem__(self, index):
        generator = np.random.default_rng([index, self.split == "train"])
        mask = np.zeros((4, 4), dtype=np.uint8)
        mask[:, : generator.integers(1, 4)] = 1
        image = np.repeat(mask[..., None] * 90 + generator.integers(0, 80, (4, 4, 1)), 3, axis=2)
        return Sample(f"{index:04d}", image.astype(np.uint8), mask)


class Pixel(TrainableAdapter):
    """A network per pixel, with dropout and noise to exercise all sources of randomness."""

    task = "segmentation"
    classes = ("dark", "bright")
    calls = 0

    def build(self, train):
        self.module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 2))

    def load(self, checkpoint):
        self.build(None)
        checkpoints.load_into(self.module, checkpoint, "pixel")
        self.module.eval()

    def preprocess(self, samples):
        return torch.from_numpy(np.stack([sample.input for sample in samples])).float() / 255

    def forward(self, batch):
        with torch.inference_mode():
            return self.module(batch)

    def postprocess(self, raw, batch):
        return list(raw.argmax(dim=-1).byte().numpy())

    def training_batch(self, samples, generator):
        pixels = self.preprocess(samples)
        noise = torch.from_numpy(generator.normal(0, 0.05, pixels.shape)).float()
        return pixels + noise, torch.from_numpy(np.stack([sample.target for sample in samples])).long()

    def loss(self, batch):
        Pixel.calls += 1
        pixels, masks = batch
        loss = torch.nn.functional.cross_entropy(self.module(pixels).flatten(0, 2), masks.flatten())
        fail_at = Killed.at
        if fail_at is not None and Pixel.calls == abs(fail_at):
            if fail_at > 0:
                raise Killed
            loss = loss * math.nan
        return {"pixels": loss}

    def checkpoint(self):
        return Checkpoint(self.module.state_dict(), adapter="", options={}, classes=self.classes)


class Killed(BaseException):
    """Simulates SIGKILL: nothing in the stage catches it."""

    at: int | None = None


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setattr(Pixel, "calls", 0)
    monkeypatch.setattr(Killed, "at", None)
    adapters, datasets = ADAPTERS.get, DATASETS.get
    monkeypatch.setattr(ADAPTERS, "get", lambda name: Pixel if name == "pixel" else adapters(name))
    monkeypatch.setattr(DATASETS, "get", lambda name: Halves if name == "halves" else datasets(name))


def recipe(**changes) -> Recipe:
    content = {
        "adapter": "pixel",
        "task": "segmentation",
        "dataset": {"name": "halves"},
        "steps": 30,
        "batch_size": 4,
        "learning_rate": 0.1,
        "warmup_steps": 3,
        "metric": "iou",
        "validate_every": 10,
        "validation_size": 12,
    }
    return Recipe.model_validate(content | changes)


def run(folder: Path, lines: list[str] | None = None, **changes):
    report = (lines if lines is not None else []).append
    return train(recipe(**changes), folder / "w.safetensors", RUNTIME, report=report)


def test_training_learns_and_writes_weights_and_a_document(tmp_path):
    provenance = run(tmp_path)
    assert provenance.figures["miou"].value > 0.95
    assert provenance.figures["miou"].low <= provenance.figures["miou"].value
    assert [entry["step"] for entry in provenance.history] == [10, 20, 30]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.safetensors", "w.yaml"]
    document = yaml.safe_load((tmp_path / "w.yaml").read_text())
    assert document["provenance"] == provenance.model_dump()
    assert read_recipe(tmp_path / "w.yaml") == recipe()
    assert provenance.sha256 == checkpoints.sha256(tmp_path / "w.safetensors")
    stored = checkpoints.load(tmp_path / "w.safetensors")
    assert (stored.adapter, stored.recipe) == ("pixel", recipe().hash)


def test_a_recipe_gives_the_same_bytes_whatever_the_random_state(tmp_path):
    first = run(tmp_path / "a")
    torch.rand(17)
    assert run(tmp_path / "b").sha256 == first.sha256
    assert run(tmp_path / "c", seed=1).sha256 != first.sha256


@pytest.mark.parametrize("killed_at", [12, 20, 21, 29])
def test_a_killed_training_continues_to_the_same_bytes(tmp_path, killed_at):
    undisturbed = run(tmp_path / "a")
    Pixel.calls, Killed.at = 0, killed_at
    with pytest.raises(Killed):
        run(tmp_path / "b")
    assert not (tmp_path / "b" / "w.safetensors").exists()
    Killed.at, lines = None, []
    continued = run(tmp_path / "b", lines)
    assert lines[0] == f"continuing at step {(killed_at - 1) // 10 * 10}"
    assert continued.sha256 == undisturbed.sha256
    same = [{k: v for k, v in row.items() if "seconds" not in k} for row in continued.history]
    assert same == [{k: v for k, v in row.items() if "seconds" not in k} for row in undisturbed.history]


TRAIN_YOLO = """
import sys
from pathlib import Path
from harness.adapter import Runtime
from harness.recipe import read_recipe
from harness.stages.train import train
from harness.stages.training_state import training_lock
recipe, weights = map(Path, sys.argv[1:])
train(read_recipe(recipe), weights, Runtime(), report=lambda line: print(line, flush=True))
"""


@pytest.mark.slow
def test_yolo_killed_by_a_signal_continues_to_the_same_bytes(tmp_path):
    """A real SIGKILL, with batch normalisation, channels last and augmentation."""
    changes = {"adapter": "yolo", "task": "detection", "metric": "coco", "learning_rate": 2e-3}
    sizes = {"steps": 16, "validate_every": 4, "validation_size": 4}
    dataset = {"name": "scenes", "options": {"size": 24}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"recipe": recipe(dataset=dataset, **changes, **sizes).model_dump()}))

    def start(folder: str) -> subprocess.Popen:
        command = [sys.executable, "-c", TRAIN_YOLO, str(path), str(tmp_path / folder / "w.safetensors")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    assert start("a").wait() == 0
    victim = start("b")
    for line in victim.stdout:
        if line.startswith("step 12/16"):
            victim.kill()
    assert victim.wait() == -signal.SIGKILL
    continued = start("b")
    assert "continuing at step" in continued.stdout.readline()
    assert continued.wait() == 0
    first, second = (checkpoints.sha256(tmp_path / folder / "w.safetensors") for folder in "ab")
    assert first == second


def test_a_second_process_waits_and_uses_the_result_of_the_first(tmp_path):
    provenance, lines, waiting = run(tmp_path / "a"), [], threading.Event()
    calls = Pixel.calls

    def report(line: str) -> None:
        lines.append(line)
        waiting.set()

    (tmp_path / "b").mkdir()
    weights = tmp_path / "b" / "w.safetensors"
    with ThreadPoolExecutor(1) as pool:
        with training_lock(weights, print):
            second = pool.submit(train, recipe(), weights, RUNTIME, report=report)
            assert waiting.wait(30)
            for path in (tmp_path / "a").iterdir():
                shutil.copy(path, tmp_path / "b")
        assert second.result(30) == provenance
    assert lines == [
        "another process is training w.safetensors; waiting for it",
        f"{weights} has already been trained by another process",
    ]
    assert Pixel.calls == calls
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["w.safetensors", "w.yaml"]


def test_the_weights_of_another_recipe_are_replaced(tmp_path):
    first = run(tmp_path, seed=1)
    assert run(tmp_path).sha256 != first.sha256


def test_a_state_of_another_recipe_is_not_continued(tmp_path):
    Killed.at = 15
    with pytest.raises(Killed):
        run(tmp_path, seed=5)
    Killed.at, lines = None, []
    run(tmp_path, lines)
    assert not any("continuing" in str(line) for line in lines)


def test_a_malformed_state_file_is_reported(tmp_path):
    (tmp_path / "w.state.pt").write_bytes(b"PK nonsense")
    with pytest.raises(UsageError, match=r"w\.state\.pt: not a training state"):
        run(tmp_path)


def test_the_best_weights_are_stored_not_the_last(tmp_path):
    # The warm-up leads to a learning rate so high that training diverges at the end.
    provenance = run(tmp_path, steps=60, learning_rate=30.0, warmup_steps=60, clip_norm=1e6)
    values = [row["miou"] for row in provenance.history]
    assert values[-1] < max(values), "the recipe no longer diverges; choose a higher rate"
    assert provenance.figures["miou"].value == pytest.approx(max(values), abs=0.01)


def test_the_best_weights_have_the_lowest_error_rate(tmp_path):
    provenance = run(
        tmp_path, steps=60, learning_rate=30.0, warmup_steps=60, clip_norm=1e6, metric="fake-pixel-error"
    )
    rates = [row["pixel_error"] for row in provenance.history]
    assert rates[-1] > min(rates), "the recipe no longer diverges; choose a higher rate"
    assert provenance.figures["pixel_error"].value == pytest.approx(min(rates), abs=0.01)


def test_patience_ends_a_training_that_no_longer_improves(tmp_path):
    provenance = run(tmp_path, steps=1000, patience=2)
    values = [row["miou"] for row in provenance.history]
    assert provenance.steps == 10 * len(values) < 1000
    assert max(values[-2:]) <= max(values[:-2])


def test_a_loss_that_is_not_finite_is_reported_with_step_and_term(tmp_path):
    Killed.at = -7
    with pytest.raises(HarnessError, match=r"loss is nan at step 6 \(pixels nan\)"):
        run(tmp_path)


def test_a_recipe_file_keeps_its_text_and_gains_the_provenance(tmp_path):
    path = tmp_path / "w.yaml"
    text = "# why\n" + yaml.safe_dump({"recipe": recipe().model_dump(exclude_unset=True)})
    path.write_text(text)
    run(tmp_path)
    first = path.read_text()
    assert first.startswith(text + "\nprovenance:\n")
    (tmp_path / "w.safetensors").unlink()
    run(tmp_path)
    assert path.read_text().startswith(text + "\nprovenance:\n")
    assert path.read_text().count("provenance:") == 1


def test_learning_rate_rises_linearly_and_falls_along_half_a_cosine():
    plan = recipe(steps=103, learning_rate=0.2, final_learning_rate=0.1)
    rates = [learning_rate(plan, step) for step in range(104)]
    assert rates[:3] == pytest.approx([0.2 / 3, 0.4 / 3, 0.2])
    assert rates[3] == pytest.approx(0.2)
    assert rates[53] == pytest.approx((0.2 + 0.02) / 2)  # half-way: the mean of first and last
    assert rates[103] == pytest.approx(0.02)
    assert rates[3:] == sorted(rates[3:], reverse=True)


@pytest.mark.parametrize("batch_size", [3, 4, 25])
def test_every_sample_is_seen_once_per_epoch(batch_size):
    plan = recipe(batch_size=batch_size)
    size, epochs = 10, 6
    seen = [index for step in range(size * epochs // batch_size) for index in batch_indices(plan, step, size)]
    whole = [seen[first : first + size] for first in range(0, len(seen) - size + 1, size)]
    assert len(whole) >= 5
    assert all(sorted(epoch) == list(range(size)) for epoch in whole)
    assert whole[0] != whole[1]


def test_pooled_batches_hold_samples_of_similar_size_and_every_sample_once_per_epoch():
    plan, size, pooled = recipe(batch_size=4), 120, 5
    sizes = np.random.default_rng(0).integers(0, 1000, size)
    batches = [batch_indices(plan, step, size, pooled, sizes.__getitem__) for step in range(2 * size // 4)]
    alone = [batch_indices(plan, step, size) for step in range(2 * size // 4)]
    for first in range(0, len(batches), pooled):
        pool, unsorted = np.array(batches[first : first + pooled]), np.array(alone[first : first + pooled])
        assert sorted(pool.flatten()) == sorted(unsorted.flatten())
        in_order = np.sort(sizes[pool.flatten()]).reshape(pooled, 4)
        assert sorted(np.sort(sizes[pool]).tolist()) == in_order.tolist()
    means = np.array([sizes[batch].mean() for batch in batches]).reshape(-1, pooled)
    assert len({tuple(np.argsort(turn)) for turn in means}) > 1, "every pool has the same order"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "yoloo"}, "unknown adapter 'yoloo'; did you mean 'yolo'"),
        ({"adapter": "yolo"}, "adapter 'yolo' is for detection, not segmentation"),
        ({"dataset": {"name": "scene"}}, "unknown data set 'scene'; did you mean 'scenes'"),
        (
            {"dataset": {"name": "halves", "options": {"sise": 3}}},
            r"dataset\.options\.sise: .*did you mean 'size'",
        ),
        ({"options": {"width": "x"}}, r"options\.width: unknown option 'width'"),
        ({"metric": "coco"}, "metric 'coco' is for detection, not segmentation"),
        ({"metric": "io"}, "unknown metric 'io'; did you mean 'iou'"),
        ({"task": "detection"}, "'halves' has no targets for detection"),
        ({"dataset": {"name": "halves", "options": {"size": 0}}}, "is empty"),
    ],
)
def test_a_wrong_recipe_is_reported_and_nothing_is_written(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        run(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


def test_fp16_is_refused(tmp_path):
    with pytest.raises(UsageError, match="fp16"):
        train(
            recipe(), tmp_path / "w.safetensors", dataclasses.replace(RUNTIME, precision="fp16"), report=print
        )
