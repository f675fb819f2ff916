"""Eight bytes of a text at a time: reading them as one number and finding the first odd one.

Most bytes of most texts are plain ASCII letters, and a loop that asks about each of them costs
several times what it takes to ask about eight at once. The number's lowest byte is the first one,
as on every machine that numba compiles for.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

from pipeline.kernels import UInt8s

# One bit or some bits of every byte.
HIGH, ONES = np.uint64(0x8080808080808080), np.uint64(0x0101010101010101)
_LOW = np.uint64(0x7F7F7F7F7F7F7F7F)
_FROM_SPACE = np.uint64(0x6060606060606060)  # with 0x1F it makes 0x7F: more reaches the high bit
_CASE = np.uint64(0x2020202020202020)  # the bit in which an ASCII letter's cases differ
_FROM_A, _BEYOND_Z = np.uint64(0x1F1F1F1F1F1F1F1F), np.uint64(0x0505050505050505)
_ABOVE_SPACE = np.uint64(0x5F5F5F5F5F5F5F5F)  # with 0x20 it makes 0x7F: more reaches the high bit


def _reading(_typing: Any, data: Any, place: Any) -> Any:  # noqa: ANN401 - numba's own types
    """Generate the code that reads eight bytes from a place of an array of bytes on."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:  # noqa: ANN401
        array: Any = make_array(signature.args[0])  # type: ignore[no-untyped-call]
        first = builder.gep(array(context, builder, given[0]).data, [given[1]])
        return builder.load(builder.bitcast(first, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(data, place), generate


def _counting_zeros(_typing: Any, number: Any) -> Any:  # noqa: ANN401
    """Generate the code that counts the zeros below a number's lowest bit; 64 where it is 0."""

    def generate(_context: Any, builder: Any, _signature: Any, given: Any) -> Any:  # noqa: ANN401
        return builder.cttz(given[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(number), generate


# It does not look where the array ends.
_load: Any = intrinsic(_reading)
trailing_zeros: Any = intrinsic(_counting_zeros)


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
    odd = (~((chunk & _LOW) + _ABOVE_SPACE) | chunk) & HIGH
    return int(trailing_zeros(odd) >> 3)


@numba.njit(cache=True, forceinline=True)
def printed_bytes(chunk: np.uint64) -> int:
    """Return how many bytes come before the first that is neither printed ASCII nor a space."""
    low = chunk & _LOW
    odd = (~(low + _FROM_SPACE) | (low + ONES) | chunk) & HIGH
    return int(trailing_zeros(odd) >> 3)


@numba.njit(cache=True, forceinline=True)
def printed_end(text: UInt8s, i: int) -> int:
    """Return where the printed ASCII and spaces end that begin at i."""
    width = 8
    while width == 8 and i < len(text):
        width = printed_bytes(eight(text, i))
        i += width
    return i


@numba.njit(cache=True, forceinline=True)
def letter_bytes(chunk: np.uint64) -> int:
    """Return how many bytes come before the first that is no ASCII letter: 0 to 8."""
    small = (chunk | _CASE) & _LOW
    odd = (~(small + _FROM_A) | (small + _BEYOND_Z) | chunk) & HIGH
    return int(trailing_zeros(odd) >> 3)


@numba.njit(cache=True, forceinline=True)
def copy(source: UInt8s, target: UInt8s) -> None:
    """Copy bytes to the beginning of others; of the two slices LLVM makes vectors."""
    for i in range(len(source)):
        target[i] = source[i]


@numba.njit(cache=True, forceinline=True)
def first_bytes(chunk: np.uint64, count: int) -> np.uint64:
    """Return the first bytes of eight, less than all, with zeros in the place of the others."""
    return chunk & ((np.uint64(1) << np.uint64(8 * count)) - np.uint64(1))
