"""Sixty-four places of a row at a time, as the bits of one number, lowest place first.

What a loop asks of one token after the other, a processor compares eight or sixteen tokens at a
time: the code made here says so in LLVM's own words, which numba has no way to write. It looks
neither where an array ends nor how it lies in memory, so only arrays without gaps are taken.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.core.errors import TypingError
from numba.extending import intrinsic

from corpus.compiled import share_compiled_code
from corpus.tokenizer import UNK_ID

share_compiled_code()

WIDTH = 64  # places of a number
_ONE, _ALL = np.uint64(1), np.uint64(2**64 - 1)
_LAST_SPECIAL = np.uint32(UNK_ID)


def _code_trailing_zeros(_typing: Any, value: Any) -> Any:  # noqa: ANN401 - numba's own types
    """Count the zeros below the lowest bit that is set; 64 where none is."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.cttz(arguments[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), codegen


def _code_marked(_typing: Any, marks: Any, start: Any) -> Any:  # noqa: ANN401
    """Say which of 64 bytes from `start` on are not 0."""
    _want_dense(marks)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        block = _load(context, builder, signature.args[0], arguments, ir.IntType(8))
        marked = builder.icmp_unsigned("!=", block, ir.Constant(block.type, [0] * WIDTH))
        return builder.bitcast(marked, ir.IntType(WIDTH))

    return types.uint64(marks, types.int64), codegen


def _code_special(_typing: Any, row: Any, start: Any, mask_id: Any) -> Any:  # noqa: ANN401
    """Say which of 64 tokens from `start` on are special ones: the first entries and <mask>."""
    _want_dense(row)

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        block = _load(context, builder, signature.args[0], arguments, ir.IntType(32))
        last = ir.Constant(block.type, [UNK_ID] * WIDTH)
        unset, first = ir.Constant(block.type, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        one = builder.insert_element(unset, arguments[2], first)
        same = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
        masks = builder.shuffle_vector(one, unset, same)
        low = builder.icmp_unsigned("<=", block, last)
        found = builder.or_(low, builder.icmp_unsigned("==", block, masks))
        return builder.bitcast(found, ir.IntType(WIDTH))

    return types.uint64(row, types.int64, types.int32), codegen


def _want_dense(array: Any) -> None:  # noqa: ANN401
    if array.ndim != 1 or array.layout != "C":
        raise TypingError(f"an array without gaps is wanted, not {array}")


def _load(context: Any, builder: Any, kind: Any, arguments: Any, item: Any) -> Any:  # noqa: ANN401
    array = context.make_array(kind)(context, builder, value=arguments[0])
    block = ir.VectorType(item, WIDTH)
    place = builder.bitcast(builder.gep(array.data, [arguments[1]]), block.as_pointer())
    return builder.load(place, align=item.width // 8)


trailing_zeros: Any = intrinsic(_code_trailing_zeros)
marked_bits: Any = intrinsic(_code_marked)
_special_bits: Any = intrinsic(_code_special)


@numba.njit(cache=True, nogil=True, forceinline=True)
def lowest(count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Set the lowest `count` bits, all 64 where it is that or more."""
    return (_ONE << np.uint64(count)) - _ONE if count < WIDTH else _ALL


@numba.njit(cache=True, nogil=True, inline="always")
def _is_special(token, mask_id):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Whether a token is never masked: one of the first entries or <mask>."""
    return (np.uint32(token) <= _LAST_SPECIAL) | (token == mask_id)


@numba.njit(cache=True, nogil=True, forceinline=True)
def special_bits(row, start, length, mask_id):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Say which of the 64 tokens from `start` on, `start` < `length`, are never masked."""
    left = length - start
    if start + WIDTH <= len(row):
        return np.uint64(_special_bits(row, start, mask_id)) & lowest(left)
    found = np.uint64(0)
    for at in range(left):
        found |= np.uint64(_is_special(row[start + at], mask_id)) << np.uint64(at)
    return found


@numba.njit(cache=True, nogil=True, forceinline=True)
def begin_bits(begins, start, length):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Say at which of the 64 tokens from `start` on, `start` < `length`, words begin."""
    if start + WIDTH <= len(begins):
        return np.uint64(marked_bits(begins, start))
    found = np.uint64(0)
    for at in range(length - start):
        found |= np.uint64(begins[start + at]) << np.uint64(at)
    return found
