"""Export to ONNX, the format of artefacts that several backends execute.

In int8, weights have one scale per output channel and activations one per tensor: the static quantisation of
Jacob et al. 2018 ("Quantization and training of neural networks for efficient integer-arithmetic-only
inference"), with ranges of the activations from calibration samples.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING

from harness.adapter import Exportable, Precision
from harness.backends.backend import Backend, Inputs
from harness.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch
    from numpy.typing import NDArray

QUANTISED = ["Conv", "Gemm", "MatMul"]  # products; other operations stay in fp32

GraphFunction = Callable[[list["NDArray[np.generic]"]], Sequence["NDArray[np.generic]"]]
"""A graph as a function: its inputs in order → its outputs in order."""


class OnnxBackend(Backend):
    """A backend that executes ONNX files on the CPU; subclasses open them."""

    precisions = ("fp32", "int8")
    devices = ("cpu",)
    suffix = ".onnx"
    exporters = ("onnx", "onnxscript", "onnxruntime")  # the last quantises

    @abstractmethod
    def open(self, artefact: Path, threads: int) -> GraphFunction:
        """Return a function that executes the graph of a file with this number of threads."""

    def export(self, part: Exportable, precision: Precision, calibration: Sequence[Inputs]) -> bytes:
        content = to_onnx(part)
        return quantise(content, calibration) if precision == "int8" else content

    def load(self, part: Exportable, artefact: Path | None) -> Callable[..., object]:
        import torch
        from torch.utils import _pytree as pytree

        assert artefact is not None
        method: Callable[..., object] = getattr(part.module, part.method)
        run = self.open(artefact, torch.get_num_threads())
        with torch.no_grad():
            results = pytree.tree_structure(method(*part.example))

        def call(*arguments: object) -> object:
            inputs: list[torch.Tensor] = pytree.tree_leaves(arguments)
            dynamic = zip(inputs, part.axes, strict=True)
            if any(tensor.shape[axis] == 0 for tensor, axes in dynamic for axis in axes):
                return method(*arguments)  # runtimes refuse empty batches, such as no regions
            outputs = run([tensor.numpy(force=True) for tensor in inputs])
            return pytree.tree_unflatten([torch.from_numpy(output) for output in outputs], results)

        return call


def to_onnx(part: Exportable) -> bytes:
    """Export a part with its dynamic axes.

    Raises:
        UsageError: The computation fixes the size of an axis that is declared to be dynamic.
    """
    import torch
    from torch.fx.experimental.symbolic_shapes import free_symbols
    from torch.utils import _pytree as pytree

    tensors, structure = pytree.tree_flatten(part.example)
    assert len(tensors) == len(part.axes), "`axes` has an entry per tensor of `example`"
    module = torch.nn.Module()  # whose `forward` is the method of the part
    module.part, module.forward = part.module, getattr(part.module, part.method)
    module.eval()
    with torch.no_grad(), _quiet():
        if any(isinstance(layer, torch.nn.RNNBase) for layer in part.module.modules()):
            # torch.export (2.15) unrolls recurrent layers, which fixes the length; the tracer does not.
            names = [f"input_{number}" for number in range(len(tensors))]
            dynamic = dict(zip(names, map(list, part.axes), strict=True))
            with TemporaryDirectory() as folder:
                file = Path(folder, "traced.onnx")
                torch.onnx.export(
                    module, part.example, file, dynamo=False, input_names=names, dynamic_axes=dynamic
                )
                return file.read_bytes()
        free = [dict.fromkeys(axes, torch.export.Dim.AUTO) for axes in part.axes]
        shapes = pytree.tree_unflatten(free, structure)
        program = torch.export.export(module, part.example, dynamic_shapes=shapes)
        names = program.graph_signature.user_inputs
        inputs = [node for node in program.graph.nodes if node.name in names]
        for number, (node, axes) in enumerate(zip(inputs, part.axes, strict=True)):
            if fixed := [axis for axis in axes if not free_symbols(node.meta["val"].shape[axis])]:
                where = f"axis {fixed[0]} of tensor {number}"
                raise UsageError(f"'{part.method}' cannot be exported: it fixes {where}")
        exported = torch.onnx.export(program, verbose=False)
    assert exported is not None
    return bytes(exported.model_proto.SerializeToString())


def quantise(content: bytes, calibration: Sequence[Inputs]) -> bytes:
    """Quantise the products of an exported graph to int8, with ranges from its calibration inputs.

    The last ones before an output stay in fp32: one scale for coordinates and scores would cost accuracy.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with TemporaryDirectory() as folder, _quiet():
        plain, prepared, quantised = (Path(folder, f"{name}.onnx") for name in ("plain", "prepared", "int8"))
        plain.write_bytes(content)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        graph = onnx.load(prepared).graph
        names = [graph_input.name for graph_input in graph.input]
        calls = [dict(zip(names, (tensor.numpy() for tensor in call), strict=True)) for call in calibration]
        quantize_static(
            prepared,
            quantised,
            SimpleNamespace(get_next=partial(next, iter(calls), None)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTISED,
            nodes_to_exclude=last_products(graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return quantised.read_bytes()


def last_products(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the products from which an output follows without another product."""
    producers = {output: node for node in graph.node for output in node.output}
    pending, last = [output.name for output in graph.output], []
    for name in pending:  # grows
        node = producers.get(name)
        if node is not None and node.op_type in QUANTISED:
            last.append(node.name)
        elif node is not None:
            pending += [source for source in node.input if source not in pending]
    return last


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop warnings and progress of the exporters, which are about their own versions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
