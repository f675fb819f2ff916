"""How much work a step is, and which share of its devices' peak speed a run reaches.

The work is counted from the model's shapes, not measured: a multiplication with an addition is two
operations, the backward pass is twice the forward pass (PaLM, Chowdhery et al. 2022, appendix B).
Only what the objective needs is counted: real tokens and not padding, attention between tokens that
see each other, logits and what follows the last layer's attention where there is a label (for base
at 512 tokens 5 % less than the formula with a whole last layer gives), nothing a second time for
activation checkpointing.
Embedding look-ups, norms, biases and the optimizer are left out, as there: below 1 % of a base
model at 512 tokens. So the share is *model FLOPs utilization*: what waits, pads or recomputes
lowers it.

Peaks are the makers' data sheets, dense (without structured sparsity). A device that is not in the
table, or only a slice of one, has no peak and no share; CPUs have none.
"""

from pathlib import Path

import torch

from pretrain.batches import Batch
from pretrain.config import ModelShape

_OPERATIONS = 2  # a multiplication and an addition
_PASSES = 3  # forward once, backward twice

# By the name that torch reports: 10^12 operations a second in bf16 (matrix units, accumulating in
# fp32) and in fp32 (ordinary units: torch uses no TF32 in matrix products unless told to).
# NVIDIA's data sheets of the A100 (2021), A30, A40, L4, L40 and L40S (2023), H100 (2023), H200
# (2024) and HGX B200 (2025), which print twice the bf16 rate, "with sparsity", for most of them;
# AMD's data sheet of the Instinct MI300X (2023).
_TERA = 10**12
_PEAKS = {
    "NVIDIA A100-PCIE-40GB": (312.0, 19.5),
    "NVIDIA A100-SXM4-40GB": (312.0, 19.5),
    "NVIDIA A100-SXM4-80GB": (312.0, 19.5),
    "NVIDIA A100 80GB PCIe": (312.0, 19.5),
    "NVIDIA A30": (165.0, 10.3),
    "NVIDIA A40": (149.7, 37.4),
    "NVIDIA L4": (121.0, 30.3),
    "NVIDIA L40": (181.05, 90.5),
    "NVIDIA L40S": (362.05, 91.6),
    "NVIDIA H100 PCIe": (756.0, 51.0),
    "NVIDIA H100 NVL": (835.0, 60.0),
    "NVIDIA H100 80GB HBM3": (989.4, 66.9),
    "NVIDIA H200": (989.4, 66.9),
    "NVIDIA H200 NVL": (835.0, 60.0),
    "NVIDIA B200": (2250.0, 75.0),
    "AMD Instinct MI300X": (1307.4, 163.4),
}


def train_flops(shape: ModelShape, tokens: int, pairs: int, labels: int) -> int:
    """Count the operations of a forward and a backward pass.

    `pairs` is how many (query, key) pairs attention has: the sum of squared row lengths, or of
    document lengths where documents are isolated.

    One layer of width 2 with 3 inside, vocabulary 10; a row of 4 tokens with 1 label:
    2 * (4 * 3 * 2 * 2 + 16 * 2 * 2 + 1 * (2 * 2 + 2 * 2 * 3 + 2 * 2 + 2 * 10)) * 3 = 912
    """
    width = shape.width
    projections = 3 * width * width
    rest = width * width + 2 * width * shape.feedforward_width
    head = width * width + width * shape.vocab_size
    # After the last layer's attention only the places with a label go on.
    places = (shape.layers - 1) * tokens + labels
    products = shape.layers * (tokens * projections + 2 * pairs * width) + places * rest
    return _OPERATIONS * _PASSES * (products + labels * head)


def row_flops(shape: ModelShape, labels: float, document_tokens: int | None = None) -> float:
    """Count the operations on a full row with so many labels.

    `document_tokens` is how long its isolated documents are; None where attention crosses them.
    """
    length = shape.sequence_length
    whole, rest = divmod(length, document_tokens or length)
    pairs = whole * (document_tokens or length) ** 2 + rest**2
    none = train_flops(shape, length, pairs, 0)
    return none + labels * train_flops(shape, 0, 0, 1)


def attended_pairs(batch: Batch) -> int:
    """Count the pairs of real tokens that attention relates, surplus rows left out.

    Lengths 8 and 3 -> 64 + 9; with the first row's documents isolated at 0 and 5 -> 25 + 9 + 9
    """
    real = torch.from_numpy(batch.numbers >= 0)
    lengths = batch.lengths[real].long()
    if batch.starts is None:
        return int((lengths * lengths).sum())
    edges = torch.cat([batch.starts[real].long().clamp(max=lengths[:, None]), lengths[:, None]], 1)
    return int((edges.diff(dim=1) ** 2).sum())


def peak_flops(device_name: str | None, precision: str) -> float | None:
    """Give a device's peak in operations a second, or None where it is unknown."""
    if device_name not in _PEAKS:
        return None
    return _PEAKS[device_name][0 if precision == "bf16" else 1] * _TERA


def device_name(device: torch.device) -> str | None:
    """Name a GPU as its driver does; None for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bf16 matrices by instructions of its own, if that is known.

    A processor says so on Linux; of others it is taken to be true.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = Path("/proc/cpuinfo")
    # x86 calls them avx512_bf16 and amx_bf16, Arm bf16.
    return not known.exists() or "bf16" in known.read_text()
