"""The torch device of a model, and recovery when its memory is exhausted."""

import gc

from harness.adapter import Precision
from harness.errors import UsageError


def pick_device(requested: str, precision: Precision = "fp32") -> str:
    """Return the torch device for `auto`, `cpu` or `cuda`; `auto` means a GPU if there is one.

    Raises:
        UsageError: `cuda` is requested, but torch finds no GPU on this machine; or the device does not
            compute in TF32, which would silently give fp32.
    """
    import torch

    if requested == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' is requested, but torch finds no GPU on this machine")
    device = requested
    if requested == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "tf32" and (device == "cpu" or torch.cuda.get_device_capability() < (8, 0)):
        raise UsageError(f"precision 'tf32' needs an NVIDIA GPU since Ampere, but the device is '{device}'")
    return device


def set_tf32(precision: Precision) -> None:
    """Let this process round the products of fp32 numbers to TF32 if that is the precision, else never.

    Torch would round those of convolutions by default.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


def torch_flags() -> dict[str, bool | str]:
    """Return the settings of torch and cuDNN that may change figures and speed."""
    import torch

    cudnn = torch.backends.cudnn
    return {
        "cudnn.benchmark": cudnn.benchmark,
        "cudnn.deterministic": cudnn.deterministic,
        "cudnn.tf32": cudnn.allow_tf32,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def free_memory() -> None:
    """Release the memory of unreachable tensors."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
