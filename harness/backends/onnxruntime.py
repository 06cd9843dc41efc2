"""The backend `onnxruntime`: ONNX Runtime executes the exported graphs."""

from pathlib import Path

from harness.backends.onnx import GraphFunction, OnnxBackend


class OnnxRuntime(OnnxBackend):
    """ONNX Runtime on the CPU."""

    packages = OnnxBackend.exporters
    install = "pip install 'harness[onnx]'"

    def open(self, artefact: Path, threads: int) -> GraphFunction:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(artefact, options, providers=["CPUExecutionProvider"])
        names = [graph_input.name for graph_input in session.get_inputs()]
        return lambda inputs: session.run(None, dict(zip(names, inputs, strict=True)))
