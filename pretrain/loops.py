"""The loops between the matrix products of a training step on a CPU, compiled by numba.

Each goes over its numbers once where torch goes several times, and draws dropouts by a hash of
(seed, row, column) where torch draws one number after the other from a generator. fused.py tells
what they are for. Their sums and maxima may be taken in any order (`fastmath`), so that processors
take eight numbers or more at a time.

Cost an element on one core of an AMD EPYC with AVX2 (benchmarks/fused.py, 2026-11): softmax with
dropout 1.0 ns where torch needs 9.2, its gradient 1.3 ns for 1.4.

Numbers come as float32, or as bfloat16 by their bits, uint16. Of the latter a row at a time is made
float32, worked on and rounded back, to the nearest and of two to the even one.

Shapes: G heads of one or more documents, Q queries, N keys; R rows, C columns, V vocabulary.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic, overload

from pretrain.kernels import GOLDEN, mix


class Drop(NamedTuple):
    """A dropout: a number is dropped where its hash is below `limit`, else it is multiplied."""

    limit: np.uint32  # probability x 2^32; 0 drops nothing
    growth: np.float32  # 1 / (1 - probability)
    seed: np.uint64


_FLOAT, _INT, _WORD = np.float32, np.int32, np.uint32
_ZERO, _HALF, _ONE = _FLOAT(0), _FLOAT(0.5), _FLOAT(1)

# exp(x) is 2^n exp(r) with n the nearest integer to x / ln 2, so |r| <= ln(2) / 2, and exp(r) is
# Taylor's polynomial of degree 7, whose rest is below 2^-26 there. ln 2 is split so that n times
# its upper part, of 10 bits, is exact.
_LOG2_E = _FLOAT(1.4426950408889634)
_LN_2_HIGH, _LN_2_LOW = _FLOAT(355 / 512), _FLOAT(0.6931471805599453 - 355 / 512)
_T2, _T3, _T4 = _FLOAT(1 / 2), _FLOAT(1 / 6), _FLOAT(1 / 24)
_T5, _T6, _T7 = _FLOAT(1 / 120), _FLOAT(1 / 720), _FLOAT(1 / 5040)
_LEAST = _FLOAT(-87)  # exp of less is no normal number
_EXPONENT_BIAS, _MANTISSA_BITS = _INT(127), _INT(23)
_LEAST_INT, _ALL_BUT_SIGN, _31 = _INT(-(2**31)), _INT(2**31 - 1), _INT(31)

# Wellons' `lowbias32` (Hash Prospector, 2018), with a second key between its two rounds.
_HASH_1, _HASH_2 = _WORD(0x7FEB352D), _WORD(0x846CA68B)
_15, _16, _32 = _WORD(15), _WORD(16), np.uint64(32)


_BITS = ir.IntType(32)


def _code_as_float(typingctx: Any, bits: Any) -> Any:  # noqa: ANN401
    """Read 32 bits as a number."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


def _code_widened(typingctx: Any, half: Any) -> Any:  # noqa: ANN401
    """Make a bfloat16 a float32: its bits are the upper ones."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        bits = builder.shl(builder.zext(arguments[0], _BITS), _BITS(16))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.uint16), codegen


def _code_rounded(typingctx: Any, number: Any) -> Any:  # noqa: ANN401
    """Make a float32 a bfloat16. What is no number stays none if its lower bits are 0, as here."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        bits = builder.bitcast(arguments[0], _BITS)
        is_odd = builder.and_(builder.lshr(bits, _BITS(16)), _BITS(1))
        above = builder.add(bits, builder.add(is_odd, _BITS(0x7FFF)))
        return builder.trunc(builder.lshr(above, _BITS(16)), ir.IntType(16))

    return types.uint16(types.float32), codegen


_as_float: Any = intrinsic(_code_as_float)
_widened: Any = intrinsic(_code_widened)
_rounded: Any = intrinsic(_code_rounded)


def _read(row: Any, room: Any) -> Any:  # noqa: ANN401
    """Give a row as float32: itself, or what it is in some room."""


def _room(row: Any, room: Any) -> Any:  # noqa: ANN401
    """Give where a row is made as float32: itself, or some room."""


def _write(numbers: Any, row: Any) -> None:  # noqa: ANN401
    """Put what was read and worked on back in its row."""


@overload(_read)
def _code_read(row, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    def read_float(row, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return row

    def read_half(row, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        for at in range(len(row)):
            room[at] = _widened(row[at])
        return room[: len(row)]

    return read_half if row.dtype == types.uint16 else read_float


@overload(_room)
def _code_room(row, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    def room_float(row, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return row

    def room_half(row, room):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return room[: len(row)]

    return room_half if row.dtype == types.uint16 else room_float


@overload(_write)
def _code_write(numbers, row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    def write_float(numbers, row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return

    def write_half(numbers, row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        for at in range(len(row)):
            row[at] = _rounded(numbers[at])

    return write_half if row.dtype == types.uint16 else write_float


# Sums may be taken in any order, so that processors take eight numbers or more at a time; what is
# no number stays none, for a loss to show it.
_LOOP: Any = {"fastmath": {"reassoc", "contract", "nsz", "arcp"}, "error_model": "numpy"}


# A sum in another order would undo the splitting of ln 2. What is not said, numba takes from the
# function that called first.
@numba.njit(cache=True, nogil=True, forceinline=True, fastmath=False)
def exponential(x):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Return exp(x) for x <= 0; at least exp(-87)."""
    x = _LEAST if x < _LEAST else x
    n = np.floor(x * _LOG2_E + _HALF)
    r = (x - n * _LN_2_HIGH) - n * _LN_2_LOW
    tail = (((((_T7 * r + _T6) * r + _T5) * r + _T4) * r + _T3) * r + _T2) * (r * r)
    return ((tail + r) + _ONE) * _as_float((_INT(n) + _EXPONENT_BIAS) << _MANTISSA_BITS)


# Numbers in order are integers in order, but for the sign: so the largest is found many at a time,
# as comparisons of numbers, of which some may be none, are not.
@numba.njit(cache=True, nogil=True, forceinline=True)
def _largest(row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    bits, top = row.view(np.int32), _LEAST_INT
    for at in range(len(bits)):
        top = max(top, _INT(bits[at] ^ ((bits[at] >> _31) & _ALL_BUT_SIGN)))
    return _as_float(_INT(top ^ ((top >> _31) & _ALL_BUT_SIGN)))


@numba.njit(cache=True, nogil=True, forceinline=True)
def _seeds(drop, row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    key = mix(drop.seed + (np.uint64(row) + np.uint64(1)) * GOLDEN)
    return _WORD(key), _WORD(key >> _32)


# Every result is made 32 bits wide again: numba would go on with 64, at half the speed.
@numba.njit(cache=True, nogil=True, forceinline=True)
def _is_dropped(column, seeds, limit):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    bits = _WORD(_WORD(column) + seeds[0])
    bits = _WORD(_WORD(bits ^ _WORD(bits >> _16)) * _HASH_1)
    bits = _WORD(bits ^ seeds[1])
    bits = _WORD(_WORD(bits ^ _WORD(bits >> _15)) * _HASH_2)
    return _WORD(bits ^ _WORD(bits >> _16)) < limit


@numba.njit(cache=True, nogil=True, **_LOOP)
def softmax(scores_GQN, logs_GQ, drop, rows, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Make probabilities with dropout of scores, in place; give the logarithms of their sums.

    Row q of head h is row `first` + h * `step` + q of the dropout, where `rows` is (first, step,
    keys). Scores beyond the queries of `logs_GQ` and beyond the keys are left as they are.
    """
    first, step, keys = rows
    room = np.empty(keys, _FLOAT)
    for head in range(len(scores_GQN)):
        for query in range(logs_GQ.shape[1]):
            row = _read(scores_GQN[head, query, :keys], room)
            top, total = _largest(row), _ZERO
            for at in range(len(row)):
                power = exponential((row[at] - top) * scale)
                row[at] = power
                total += power
            logs_GQ[head, query] = top * scale + np.log(total)
            factor = drop.growth / total
            seeds = _seeds(drop, first + head * step + query)
            for at in range(len(row)):
                row[at] *= _ZERO if _is_dropped(at, seeds, drop.limit) else factor
            _write(row, scores_GQN[head, query, :keys])


@numba.njit(cache=True, nogil=True, **_LOOP)
def softmax_gradient(scores_GQN, slopes_GQN, sums_GQ, drop, rows, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Make what `softmax` made of scores again, and the gradient of the scores of its own.

    Both in place. `sums_GQ` are the logarithms from there, and the mean gradient of every row's
    probabilities, weighed by them.
    """
    logs_GQ, means_GQ = sums_GQ
    first, step, keys = rows
    rooms = np.empty((2, keys), _FLOAT)
    for head in range(len(scores_GQN)):
        for query in range(logs_GQ.shape[1]):
            row = _read(scores_GQN[head, query, :keys], rooms[0])
            slope = _read(slopes_GQN[head, query, :keys], rooms[1])
            log, mean = logs_GQ[head, query], means_GQ[head, query]
            seeds = _seeds(drop, first + head * step + query)
            for at in range(len(row)):
                share = exponential(row[at] * scale - log)
                kept = share * (_ZERO if _is_dropped(at, seeds, drop.limit) else drop.growth)
                row[at] = kept
                slope[at] = (kept * slope[at] - share * mean) * scale
            _write(row, scores_GQN[head, query, :keys])
            _write(slope, slopes_GQN[head, query, :keys])


@numba.njit(cache=True, nogil=True, **_LOOP)
def drop_out(source_RC, target_RC, drop, first):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Copy rows with dropout, of which the first is row `first` of it."""
    rooms = np.empty((2, source_RC.shape[1]), _FLOAT)
    for row in range(len(source_RC)):
        source, target = _read(source_RC[row], rooms[0]), _room(target_RC[row], rooms[1])
        seeds = _seeds(drop, first + row)
        for at in range(len(source)):
            target[at] = source[at] * (_ZERO if _is_dropped(at, seeds, drop.limit) else drop.growth)
        _write(target, target_RC[row])


@numba.njit(cache=True, nogil=True, **_LOOP)
def cross_entropy(logits_RV, bias_V, labels_R, losses_R):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Give the losses in nats, and the gradient of their sum in the place of the logits.

    `bias_V` is added to the logits. A row whose label is negative has no loss and no gradient.
    """
    room = np.empty(logits_RV.shape[1], _FLOAT)
    for row in range(len(logits_RV)):
        label = labels_R[row]
        if label < 0:
            logits_RV[row] = 0
            losses_R[row] = _ZERO
            continue
        logits = _read(logits_RV[row], room)
        for at in range(len(logits)):
            logits[at] += bias_V[at]
        top, wanted, total = _largest(logits), logits[label], _ZERO
        for at in range(len(logits)):
            power = exponential(logits[at] - top)
            logits[at] = power
            total += power
        losses_R[row] = np.log(total) + top - wanted
        factor = _ONE / total
        for at in range(len(logits)):
            logits[at] *= factor
        logits[label] -= _ONE
        _write(logits, logits_RV[row])
