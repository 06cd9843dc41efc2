"""A code version changes with the code that a module reaches, but not with comments or other code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import adapters
from harness.adapter import ADAPTERS
from harness.identity import _distributions, code_version, content_id, modules_of

MODEL = '''
"""What it is."""
from . import layers
from .deep.search import beam  # a module of the same distribution
from .layers import WIDTH
import json

def answer(x):
    """Why."""
    return x + WIDTH
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package that is never imported; its name is new in every test."""
    folder = tmp_path / f"pkg_{tmp_path.name}"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("from .model import answer\n")
    (folder / "model.py").write_text(MODEL)
    (folder / "layers.py").write_text("import no_such_distribution.part\nWIDTH = 3\n")
    (folder / "deep" / "__init__.py").write_text("")
    (folder / "deep" / "search.py").write_text("def beam():\n    from ..tables import T\n    return T\n")
    (folder / "tables.py").write_text("T = 1\n")
    (folder / "unused.py").write_text("U = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    assert folder.name not in sys.modules, "hashing must not import the code"


def version(module: str) -> str:
    code_version.cache_clear()
    return code_version(module)


@pytest.mark.parametrize("entry", ["", ".model"])
@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("model.py", MODEL.replace("x + WIDTH", "x - WIDTH")),
        ("layers.py", "WIDTH = 4\n"),
        ("tables.py", "T = 2\n"),
    ],
)
def test_imported_code_changes_the_version(package: Path, entry: str, file: str, changed: str) -> None:
    before = version(package.name + entry)
    (package / file).write_text(changed)
    assert version(package.name + entry) != before


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("model.py", MODEL.replace("Why.", "Because.").replace("# a module", "# some module") + "\n# end\n"),
        ("model.py", MODEL.replace("x + WIDTH", "(x  +  WIDTH)")),
        ("unused.py", "U = 2\n"),
    ],
)
def test_comments_docstrings_layout_and_other_modules_do_not_change_the_version(
    package: Path, file: str, changed: str
) -> None:
    before = version(package.name)
    (package / file).write_text(changed)
    assert version(package.name) == before


@pytest.mark.parametrize("listed", ["", "{0}\n{0}_help\n", None])
def test_other_modules_of_the_distribution_change_the_version_and_other_distributions_do_not(
    package: Path, listed: str | None
) -> None:
    """The distribution lists no modules, both modules, or does not exist."""
    folder = package.parent
    helper, foreign = folder / f"{package.name}_help.py", folder / f"{package.name}_foreign.py"
    (package / "layers.py").write_text(f"import {helper.stem}, {foreign.stem}, numpy\nWIDTH = 3\n")
    helper.write_text("H = 1\n")
    foreign.write_text("F = 1\n")
    write_metadata(folder, "foreign", f"{foreign.stem}\n")
    if listed is not None:
        write_metadata(folder, "own", listed.format(package.name))
    _distributions.cache_clear()
    before = version(package.name)
    foreign.write_text("F = 2\n")
    assert version(package.name) == before
    helper.write_text("H = 2\n")
    assert version(package.name) != before
    assert not [name for name in modules_of(package.name) if name.startswith("numpy")]


def write_metadata(folder: Path, name: str, modules: str) -> None:
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "top_level.txt").write_text(modules)


def test_a_content_id_depends_on_content_only() -> None:
    assert content_id({"a": 1, "b": [1.5, None]}) == content_id({"b": [1.5, None], "a": 1})
    assert content_id({"a": 1}) != content_id({"a": "1"})
    # printf '{"a":1}' | sha256sum
    assert content_id({"a": 1}) == "015abd7f5cc57a2d"


# The modules that each adapter's identity covers, without empty packages: an edit of one of them changes the
# ids of the adapter's trials, which are then predicted again.
SHARED = {"images", "torch_adapter"}
MODEL_ON_BACKBONE = {*SHARED, "augmentation", "backbone", "vision.input_size", "vision.pretrained"}
TRANSLATOR = {
    "torch_adapter",
    *(f"translation.{name}" for name in ("cells", "options", "search", "tokens", "translator", "vocabulary")),
}
RECURRENT = {*TRANSLATOR, "translation.probes", "translation.seq2seq", "translation.seq2seq_model"}
SEGMENTER = {
    *SHARED,
    "augmentation",
    "segmentation.augmentation",
    "segmentation.receptive_field",
    "segmentation.segmenter",
    "segmentation.windows",
    "vision.input_size",
}
FCN = {
    *SEGMENTER,
    *MODEL_ON_BACKBONE,
    "segmentation.fcn",
    "vision.vgg",
}
FCN_RESNET = {
    *SEGMENTER,
    "segmentation.fcn_resnet",
    "vision.pretrained",
    "vision.resnet",
}
DETECTOR = {
    *MODEL_ON_BACKBONE,
    *(
        f"detection.{name}"
        for name in (
            "detector_input",
            "finite",
            "ssd_augmentation",
            "training_batch",
            "training_images",
            "yolo_augmentation",
        )
    ),
}
REGION_DETECTOR = {
    *DETECTOR,
    *(f"detection.{name}" for name in ("box_regression", "matching", "region_head")),
}
SELECTIVE_SEARCH_DETECTOR = {
    *REGION_DETECTOR,
    *(
        f"detection.{name}"
        for name in (
            "proposal_cache",
            "selective_search",
            "selective_search_detector",
            "selective_search_grouping",
        )
    ),
    "vision.vgg",
}
TORCHVISION_DETECTOR = {
    *SHARED,
    *(f"detection.{name}" for name in ("finite", "torchvision_weights", "training_images")),
    "torchvision.detector",
}
MODULES = {
    "predictions": {"predictions"},
    "attention": {
        *TRANSLATOR,
        *(f"translation.{name}" for name in ("attention", "attention_model")),
    },
    "rnn": RECURRENT,
    "lstm": RECURRENT,
    "yolo": {
        *DETECTOR,
        *(f"detection.{name}" for name in ("yolo", "yolo_grid", "yolov1")),
    },
    "ssd": {
        *DETECTOR,
        *(
            f"detection.{name}"
            for name in (
                "box_regression",
                "default_boxes",
                "matching",
                "ssd",
                "ssd_network",
                "torchvision_weights",
            )
        ),
        "vision.vgg",
    },
    "rcnn": {*SELECTIVE_SEARCH_DETECTOR, "detection.rcnn"},
    "fast-rcnn": {*SELECTIVE_SEARCH_DETECTOR, "detection.fast_rcnn", "detection.region_trunk"},
    "faster-rcnn": {
        *REGION_DETECTOR,
        *(
            f"detection.{name}"
            for name in (
                "faster_rcnn",
                "feature_pyramid",
                "region_trunk",
                "rpn",
                "torchvision_weights",
            )
        ),
        "vision.resnet",
    },
    "fcn-32s": FCN,
    "fcn-16s": FCN,
    "fcn-8s": FCN,
    "full-resolution": {*SEGMENTER, "backbone", "segmentation.full_resolution"},
    "fcn-resnet50": FCN_RESNET,
    "torchvision/fasterrcnn_resnet50_fpn": {
        *TORCHVISION_DETECTOR,
        "torchvision.builders",
        "torchvision.faster_rcnn",
    },
    "torchvision/ssd300_vgg16": {
        *TORCHVISION_DETECTOR,
        "detection.ssd_augmentation",
        "torchvision.builders",
        "torchvision.ssd",
    },
    **{
        name: {*TORCHVISION_DETECTOR, "torchvision.builders"}
        for name in (
            "torchvision/fasterrcnn_resnet50_fpn_v2",
            "torchvision/fasterrcnn_mobilenet_v3_large_fpn",
            "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn",
            "torchvision/maskrcnn_resnet50_fpn",
            "torchvision/maskrcnn_resnet50_fpn_v2",
            "torchvision/retinanet_resnet50_fpn",
            "torchvision/retinanet_resnet50_fpn_v2",
            "torchvision/fcos_resnet50_fpn",
            "torchvision/ssdlite320_mobilenet_v3_large",
        )
    },
    **{
        name: {*FCN_RESNET, "torchvision.segmentation"}
        for name in (
            "torchvision/fcn_resnet50",
            "torchvision/fcn_resnet101",
            "torchvision/deeplabv3_resnet50",
            "torchvision/deeplabv3_resnet101",
            "torchvision/deeplabv3_mobilenet_v3_large",
            "torchvision/lraspp_mobilenet_v3_large",
        )
    },
}
ADAPTER_MODULES = {
    name: entry.module for name, entry in ADAPTERS.entries().items() if entry.origin == "harness"
}


def test_every_adapter_of_this_project_states_the_modules_of_its_identity() -> None:
    assert MODULES.keys() == ADAPTER_MODULES.keys()


@pytest.mark.parametrize("name", MODULES)
def test_an_adapters_identity_covers_these_modules(name: str) -> None:
    packages = {"adapters", "adapters.detection", "adapters.segmentation"}
    covered = modules_of(ADAPTER_MODULES[name]) - packages
    assert {module.removeprefix("adapters.") for module in covered} == MODULES[name]


def test_an_edit_of_the_region_proposal_network_changes_faster_rcnn_only(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("checkpoints", "__pycache__")
    shutil.copytree(Path(adapters.__path__[0]), tmp_path / "adapters", ignore=ignored)
    code = (
        "import json, sys; from harness.identity import code_version\n"
        f"print(json.dumps({{name: code_version(name) for name in {sorted(set(ADAPTER_MODULES.values()))}}}))"
    )

    def versions() -> dict[str, str]:
        """Return the versions of the copied adapters, in a process that finds the copy first."""
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        output = subprocess.check_output([sys.executable, "-c", code], env=environment, cwd=tmp_path)
        return dict(json.loads(output))

    before = versions()
    with (tmp_path / "adapters" / "detection" / "rpn.py").open("a") as file:
        file.write("\nEDITED = True\n")
    after = versions()
    assert {name for name in before if before[name] != after[name]} == {"adapters.detection.faster_rcnn"}
