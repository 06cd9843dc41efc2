"""The backend `openvino`: OpenVINO executes the exported graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.backends.onnx import GraphFunction, OnnxBackend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OpenVino(OnnxBackend):
    """OpenVINO on the CPU; its int8 artefacts are those of ONNX Runtime, which quantises them."""

    packages = (*OnnxBackend.exporters, "openvino")
    install = "pip install 'harness[openvino]'"

    def open(self, artefact: Path, threads: int) -> GraphFunction:
        import openvino

        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # by default bf16 on CPUs that have it
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.Core().compile_model(artefact, "CPU", settings).create_infer_request()

        def run(inputs: list[NDArray[np.generic]]) -> Sequence[NDArray[np.generic]]:
            return list(request.infer(dict(enumerate(inputs)), share_inputs=True).values())

        return run
