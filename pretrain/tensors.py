"""Named fp32 tensors as one safetensors file, streamed out and read back against a checksum.

The library's own writer first makes one bytes object of all tensors, while it holds the
interpreter: 8 bytes a parameter more, and a training step beside it stands still. Here each tensor
goes to disk from where it lies, in pieces during which Python runs on; the SHA-256 is taken on the
way, so it is of what was meant, not of what the disk made of it. Format: 8 bytes of header length,
a JSON header, the tensors (the safetensors README, "Format"). Equal tensors give equal bytes.

Reading goes through the library. A remote file is first copied to a temporary one.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import orjson
import safetensors.torch
import torch
from torch import Tensor

from corpus.files import checksum, is_remote, naming_full, open_reader

_LENGTH_BYTES = 8
# Large enough that hashlib and write() let other threads run, small enough to share a core with
# them. Guess.
_PIECE_BYTES = 2**22


class DamagedFileError(ValueError):
    """A file is not what was written."""


def write_tensors(stream: BinaryIO, tensors: Mapping[str, Tensor]) -> str:
    """Write fp32 tensors sorted by name; return the SHA-256 of the file in hexadecimal."""
    digest = hashlib.sha256()
    names = sorted(tensors)
    arrays = [_as_bytes(tensors[name]) for name in names]
    shapes = [list(tensors[name].shape) for name in names]
    for part in (_header(names, shapes, arrays), *arrays):
        for start in range(0, len(part), _PIECE_BYTES):
            piece = part[start : start + _PIECE_BYTES]
            digest.update(piece)
            stream.write(piece)
    return digest.hexdigest()


def read_tensors(path: str, expected: str) -> dict[str, Tensor]:
    """Read a file whose SHA-256 must be `expected`."""
    if not is_remote(path):
        _compare(path, checksum(path), expected)
        return safetensors.torch.load_file(path)
    digest, here = hashlib.sha256(), tempfile.gettempdir()
    with naming_full(here), tempfile.NamedTemporaryFile() as copy, open_reader(path) as stream:
        while piece := stream.read(_PIECE_BYTES):
            digest.update(piece)
            copy.write(piece)
        copy.flush()
        _compare(path, digest.hexdigest(), expected)
        # Cloned, as what is loaded may be a view of the file that ends here.
        loaded = safetensors.torch.load_file(Path(copy.name))
        return {name: tensor.clone() for name, tensor in loaded.items()}


def _compare(path: str, found: str, expected: str) -> None:
    if found != expected:
        raise DamagedFileError(f"{path} has checksum {found}")


def _header(names: list[str], shapes: list[list[int]], arrays: list[memoryview]) -> memoryview:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape, array in zip(names, shapes, arrays, strict=True):
        stop = start + len(array)
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = orjson.dumps(entries)
    text += b" " * (-len(text) % _LENGTH_BYTES)  # so that the tensors begin aligned
    return memoryview(len(text).to_bytes(_LENGTH_BYTES, "little") + text)


def _as_bytes(tensor: Tensor) -> memoryview:
    assert tensor.dtype == torch.float32, "checkpoints hold fp32 only"
    # reshape(-1) first: a scalar has no bytes to view otherwise. Empty views cannot be cast.
    flat = tensor.contiguous().reshape(-1)
    return flat.numpy().data.cast("B") if flat.numel() else memoryview(b"")
