"""Checkpoints are loaded, complete and fitting, or give one message; a changed recipe is retrained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from harness.checkpoint import Checkpoint, load, load_into, save, sha256
from harness.errors import UnavailableError, UsageError
from harness.recipe import read_recipe, resolve_checkpoint

ADAPTER = "fake-translation"
RECIPE: dict[str, Any] = {
    "adapter": ADAPTER,
    "task": "translation",
    "dataset": {"name": "phrases"},
    "steps": 10,
    "batch_size": 4,
    "learning_rate": 0.001,
    "metric": "bleu",
}


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))


def checkpoint_of(module: torch.nn.Module, **changes: Any) -> Checkpoint:
    return Checkpoint(
        **{"tensors": module.state_dict(), "adapter": ADAPTER, "options": {"width": 4}} | changes
    )


def write_recipe(folder: Path, name: str = "made", **changes: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"recipe": RECIPE | changes}))
    return path


class TestFile:
    def test_a_saved_checkpoint_loads_unchanged(self, tmp_path: Path) -> None:
        vocabulary = bytes(range(256)) * 3
        checkpoint = checkpoint_of(
            model(),
            classes=("null", "Übergröße"),
            assets={"vocabulary": vocabulary, "empty": b""},
            recipe="abc",
        )
        digest = save(checkpoint, tmp_path / "deep" / "a.safetensors")
        loaded = load(tmp_path / "deep" / "a.safetensors")
        assert digest == sha256(tmp_path / "deep" / "a.safetensors")
        assert (loaded.adapter, loaded.options, loaded.classes, loaded.recipe) == (
            ADAPTER, {"width": 4}, ("null", "Übergröße"), "abc",
        )  # fmt: skip
        assert loaded.assets == {"vocabulary": vocabulary, "empty": b""}
        assert loaded.tensors.keys() == checkpoint.tensors.keys()
        for name, tensor in checkpoint.tensors.items():
            stored = tensor.half().float() if tensor.is_floating_point() else tensor
            assert torch.equal(loaded.tensors[name], stored), name

    def test_saving_twice_gives_the_same_hash(self, tmp_path: Path) -> None:
        a, b = (save(checkpoint_of(model()), tmp_path / name) for name in ("a.safetensors", "b.safetensors"))
        assert a == b
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]

    @pytest.mark.parametrize("keep", [0, 4, 60, -1])
    def test_a_truncated_file_gives_one_message(self, tmp_path: Path, keep: int) -> None:
        path = tmp_path / "a.safetensors"
        save(checkpoint_of(model()), path)
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(UsageError, match=r"a\.safetensors: truncated or not safetensors"):
            load(path)

    def test_metadata_of_another_tool_give_one_message(self, tmp_path: Path) -> None:
        path = tmp_path / "a.safetensors"
        save_file({"w": torch.zeros(1)}, path, metadata={"options": "--fast"})
        with pytest.raises(UsageError, match=r"'options' was not written by this harness: '--fast'"):
            load(path)

    def test_plain_weights_of_another_tool_load(self, tmp_path: Path) -> None:
        save_file({"w": torch.ones(2)}, tmp_path / "a.safetensors")
        loaded = load(tmp_path / "a.safetensors")
        assert (loaded.adapter, loaded.classes, loaded.recipe) == ("", (), "")
        assert np.array_equal(loaded.tensors["w"], [1, 1])


class Spy:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "run")


class TestPublishedWeights:
    @pytest.mark.parametrize("form", [True, False], ids=["zip", "legacy"])
    def test_a_state_dict_of_torch_save_loads(self, tmp_path: Path, form: bool) -> None:
        source = model().half()
        path = tmp_path / "published.pth"
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=form)
        loaded = load(path)
        assert (loaded.adapter, loaded.options, loaded.classes) == ("", {}, ())
        target = model()
        load_into(target, loaded, ADAPTER)
        assert torch.equal(target[0].weight, source[0].weight.float())
        assert resolve_checkpoint("published.pth", ADAPTER, tmp_path).weights == path

    @pytest.mark.parametrize("form", [True, False], ids=["zip", "legacy"])
    def test_code_in_a_file_is_not_run(self, tmp_path: Path, form: bool) -> None:
        path, trace = tmp_path / "a.pth", tmp_path / "trace"
        torch.save({"w": Spy(trace)}, path, _use_new_zipfile_serialization=form)
        with pytest.raises(UsageError, match=r"a\.pth: truncated, or not a file of weights alone"):
            load(path)
        assert not trace.exists()
        torch.load(path, weights_only=False)
        assert trace.exists()  # the file would have run it

    @pytest.mark.parametrize("form", [True, False], ids=["zip", "legacy"])
    def test_a_damaged_file_gives_one_message(self, tmp_path: Path, form: bool) -> None:
        path = tmp_path / "a.pth"
        torch.save(model().state_dict(), path, _use_new_zipfile_serialization=form)
        whole = path.read_bytes()
        generator = np.random.default_rng(0)
        for stop in [0, 1, len(whole) - 1, *generator.integers(0, len(whole), 20)]:
            for content in (whole[:stop], generator.bytes(stop)):
                path.write_bytes(content)
                with pytest.raises(
                    UsageError, match=r"a\.pth: truncated, or not a file of weights alone"
                ) as e:
                    load(path)
                assert "\n" not in str(e.value)

    def test_a_missing_file_is_reported_as_missing(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"checkpoint .*a\.pth: no such file"):
            load(tmp_path / "a.pth")

    @pytest.mark.parametrize("content", [torch.zeros(2), {"epoch": 3}, {0: torch.zeros(1)}, [torch.zeros(1)]])
    def test_anything_but_a_state_dict_is_refused(self, tmp_path: Path, content: Any) -> None:
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(UsageError, match=r"a\.pt: expected a state dict \(tensors by name\)"):
            load(tmp_path / "a.pt")


class TestLoadInto:
    def test_matching_weights_are_copied(self) -> None:
        source, target = model(), torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        load_into(target, checkpoint_of(source), ADAPTER)
        assert torch.equal(source[0].weight, target[0].weight)

    @pytest.mark.parametrize(
        ("spoil", "expected"),
        [
            (lambda t: t.pop("0.bias"), "tensor '0.bias' is missing from the file"),
            (lambda t: t.update(extra=torch.zeros(1)), "tensor 'extra' is unexpected"),
            (lambda t: t.update({"0.bias": torch.zeros(5)}), r"'0.bias' has shape \(5,\), expected \(4,\)"),
            (lambda t: t["0.bias"].fill_(float("nan")), "tensor '0.bias' has NaN or infinite values"),
            (lambda t: t["0.bias"].fill_(float("inf")), "tensor '0.bias' has NaN or infinite values"),
        ],
    )
    def test_a_tensor_that_does_not_fit_is_named_and_nothing_changes(self, spoil: Any, expected: str) -> None:
        tensors = dict(model().state_dict())
        spoil(tensors)
        target = model()
        before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
        with pytest.raises(UsageError, match=expected):
            load_into(target, checkpoint_of(model(), tensors=tensors), ADAPTER)
        assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())

    def test_weights_of_another_adapter_are_refused(self) -> None:
        with pytest.raises(
            UsageError, match="checkpoint of adapter 'fake-translation' cannot be loaded by 'lstm'"
        ):
            load_into(model(), checkpoint_of(model()), "lstm")


class TestResolve:
    def test_weights_by_path_relative_to_the_suite(self, tmp_path: Path) -> None:
        save(checkpoint_of(model()), tmp_path / "w.safetensors")
        reference = resolve_checkpoint("w.safetensors", ADAPTER, tmp_path)
        assert (reference.weights, reference.recipe, reference.missing) == (
            tmp_path / "w.safetensors",
            None,
            False,
        )
        with pytest.raises(UnavailableError, match=r"checkpoint .*gone\.safetensors: no such file"):
            resolve_checkpoint("gone.safetensors", ADAPTER, tmp_path)

    def test_a_recipe_without_weights_gives_a_missing_checkpoint(self, tmp_path: Path) -> None:
        write_recipe(tmp_path)
        reference = resolve_checkpoint("made.yaml", ADAPTER, tmp_path)
        assert reference.missing
        assert not reference.weights.exists()

    def test_weights_beside_the_recipe_or_in_the_cache_are_found(self, tmp_path: Path) -> None:
        recipe = read_recipe(write_recipe(tmp_path))
        cached = resolve_checkpoint("made.yaml", ADAPTER, tmp_path).weights
        save(checkpoint_of(model(), recipe=recipe.hash), cached)
        assert resolve_checkpoint("made.yaml", ADAPTER, tmp_path).weights == cached
        save(checkpoint_of(model(), recipe=recipe.hash), tmp_path / "made.safetensors")
        reference = resolve_checkpoint("made.yaml", ADAPTER, tmp_path)
        assert (reference.weights, reference.missing) == (tmp_path / "made.safetensors", False)

    def test_weights_of_an_older_recipe_count_as_missing(self, tmp_path: Path) -> None:
        recipe = read_recipe(write_recipe(tmp_path))
        save(checkpoint_of(model(), recipe=recipe.hash), tmp_path / "made.safetensors")
        assert not resolve_checkpoint("made.yaml", ADAPTER, tmp_path).missing
        write_recipe(tmp_path, steps=11)
        assert resolve_checkpoint("made.yaml", ADAPTER, tmp_path).missing

    def test_provenance_and_comments_do_not_change_the_hash(self, tmp_path: Path) -> None:
        path = write_recipe(tmp_path)
        before = read_recipe(path).hash
        path.write_text("# why\n" + path.read_text() + "provenance: {steps: 10}\n")
        assert read_recipe(path).hash == before

    def test_a_recipe_for_another_adapter_is_refused(self, tmp_path: Path) -> None:
        write_recipe(tmp_path, adapter="lstm")
        with pytest.raises(UsageError, match="a recipe for adapter 'lstm', not 'fake-translation'"):
            resolve_checkpoint("made.yaml", ADAPTER, tmp_path)

    def test_a_name_is_looked_up_in_the_package_of_the_adapter(self) -> None:
        with pytest.raises(
            UsageError, match=r"unknown checkpoint 'yolo-scene'; did you mean 'yolo-scenes'\?"
        ):
            resolve_checkpoint("yolo-scene", "yolo", None)
        with pytest.raises(UsageError, match=r"unknown checkpoint 'x' \(known: none\)"):
            resolve_checkpoint("x", ADAPTER, None)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a: [", "1: malformed YAML"),
            ("- 1", "1: expected a mapping"),
            ("a: 1", "1: recipe: this key is required"),
            (
                yaml.safe_dump({"recipe": RECIPE | {"steps": 0}}),
                r"8: recipe\.steps: Input should be greater than 0",
            ),
            (
                yaml.safe_dump({"recipe": RECIPE | {"stesp": 1}}),
                r"9: recipe\.stesp: unknown key 'stesp'; did you mean 'steps'",
            ),
        ],
    )
    def test_a_malformed_recipe_gives_one_message(self, tmp_path: Path, text: str, expected: str) -> None:
        (tmp_path / "made.yaml").write_text(text)
        with pytest.raises(UsageError, match=rf"made\.yaml:{expected}") as caught:
            resolve_checkpoint("made.yaml", ADAPTER, tmp_path)
        assert "\n" not in str(caught.value)


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": {**F32, "shape": [0, 2**63], "data_offsets": [0, 0]}},
        {"__metadata__": {"options": "[" * 100_000}},
        {"__metadata__": {"options": "9" * 5000}},
        {"__metadata__": {"adapter": 1}},
        {"__metadata__": ["adapter"]},
        {"asset:x": {**F32, "dtype": "BF16", "shape": [8]}},
        {"a": {**F32, "dtype": "F7"}},
        {"a": {**F32, "data_offsets": [-16, 0]}},
        {"a": {**F32, "data_offsets": [16, 0]}},
        {"a": {**F32, "data_offsets": [0, 32], "shape": [8]}},
        {"a": {**F32, "shape": [5]}},
        {"a": {**F32, "shape": [2**40, 2**40]}},
        {"a": F32, "b": F32},
        {"a": [1]},
        {"a": None},
        [1],
        None,
        b'{"a": 1',
        b'{"\xff": 1}',
        b'{"__metadata__": {"adapter": "x", "adapter": "y"}}',
        b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2),
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, header: object) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    data = b"0" * 16 * (b"data_offsets" in text and b"[0, 0]" not in text)
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    with pytest.raises(UsageError, match=r"^checkpoint .*w\.safetensors: ") as caught:
        load(tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [3, 2**20, 2**40, 2**64 - 1])
def test_a_wrong_length_of_the_header_is_refused(tmp_path: Path, length: int) -> None:
    text = json.dumps({"a": F32}).encode()
    (tmp_path / "w.safetensors").write_bytes(length.to_bytes(8, "little") + text + b"0" * 16)
    with pytest.raises(UsageError, match=r"^checkpoint .*w\.safetensors: truncated or not safetensors"):
        load(tmp_path / "w.safetensors")
