"""Eight bytes of a text at a time: reading them as one number and finding the first odd one.

Most bytes of most texts are plain ASCII letters, and a loop that asks about each of them costs
several times what it takes to ask about eight at once. The number's lowest byte is the first one,
as on every machine that numba compiles for.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from pipeline.kernels import UInt8s

# One bit or some bits of every byte.
_HIGH, _LOW = np.uint64(0x8080808080808080), np.uint64(0x7F7F7F7F7F7F7F7F)
_ABOVE_SPACE = np.uint64(0x5F5F5F5F5F5F5F5F)  # with 0x20 it makes 0x7F: more reaches the high bit


@intrinsic  # type: ignore[untyped-decorator]
def _load(_typing: Any, data: Any, place: Any) -> Any:  # noqa: ANN401 - numba's own types
    """Read eight bytes from a place on; where the array ends is the caller's business."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:  # noqa: ANN401
        array = make_array(signature.args[0])(context, builder, given[0])
        first = builder.gep(array.data, [given[1]])
        return builder.load(builder.bitcast(first, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, place), generate


@intrinsic  # type: ignore[untyped-decorator]
def _trailing_zeros(_typing: Any, number: Any) -> Any:  # noqa: ANN401
    def generate(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:  # noqa: ANN401
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(number), generate


@numba.njit(cache=True, forceinline=True)
def eight(text: UInt8s, i: int) -> np.uint64:
    """Return the eight bytes from i on as a number; zeros stand for those after the end."""
    if i + 8 <= len(text):
        return np.uint64(_load(text, i))
    found = np.uint64(0)
    for n in range(len(text) - i):
        found |= np.uint64(text[i + n]) << np.uint64(8 * n)
    return found


@numba.njit(cache=True, forceinline=True)
def plain_bytes(chunk: np.uint64) -> int:
    """Return how many bytes come before the first that is no printed ASCII: 0 to 8."""
    odd = (~((chunk & _LOW) + _ABOVE_SPACE) | chunk) & _HIGH
    return int(_trailing_zeros(odd) >> 3)


@numba.njit(cache=True, forceinline=True)
def first_bytes(chunk: np.uint64, count: int) -> np.uint64:
    """Return the first bytes of eight, less than all, with zeros in the place of the others."""
    return chunk & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))
