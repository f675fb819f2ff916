"""The loops between the matrix products of a training step on a CPU, compiled by numba.

Each goes over its numbers once where torch goes several times, and draws dropouts by a hash of
(seed, row, column) where torch draws one number after the other from a generator. fused.py tells
what they are for. Their sums and maxima may be taken in any order (`fastmath`), so that processors
take eight numbers or more at a time.

Cost an element on one core of an AMD EPYC with AVX2 (benchmarks/fused.py, 2026-11): softmax with
dropout 1.0 ns where torch needs 9.2, its gradient 1.3 ns for 1.4.

Shapes: G heads of one or more documents, Q queries, N keys; R rows, C columns, V vocabulary.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

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


def _code_as_float(typingctx: Any, bits: Any) -> Any:  # noqa: ANN401
    """Read 32 bits as a number."""

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), codegen


_as_float: Any = intrinsic(_code_as_float)

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
def _keys(drop, row):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    key = mix(drop.seed + (np.uint64(row) + np.uint64(1)) * GOLDEN)
    return _WORD(key), _WORD(key >> _32)


# Every result is made 32 bits wide again: numba would go on with 64, at half the speed.
@numba.njit(cache=True, nogil=True, forceinline=True)
def _is_dropped(column, keys, limit):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    bits = _WORD(_WORD(column) + keys[0])
    bits = _WORD(_WORD(bits ^ _WORD(bits >> _16)) * _HASH_1)
    bits = _WORD(bits ^ keys[1])
    bits = _WORD(_WORD(bits ^ _WORD(bits >> _15)) * _HASH_2)
    return _WORD(bits ^ _WORD(bits >> _16)) < limit


@numba.njit(cache=True, nogil=True, **_LOOP)
def softmax(scores_GQN, logs_GQ, drop, rows, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Make probabilities with dropout of scores, in place; give the logarithms of their sums.

    Row q of head h is row `rows[0]` + h * `rows[1]` + q of the dropout.
    """
    for head in range(len(scores_GQN)):
        for query in range(scores_GQN.shape[1]):
            row = scores_GQN[head, query]
            top, total = _largest(row), _ZERO
            for at in range(len(row)):
                power = exponential((row[at] - top) * scale)
                row[at] = power
                total += power
            logs_GQ[head, query] = top * scale + np.log(total)
            factor = drop.growth / total
            keys = _keys(drop, rows[0] + head * rows[1] + query)
            for at in range(len(row)):
                row[at] *= _ZERO if _is_dropped(at, keys, drop.limit) else factor


@numba.njit(cache=True, nogil=True, **_LOOP)
def softmax_gradient(scores_GQN, slopes_GQN, sums_GQ, drop, rows, scale):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Make what `softmax` made of scores again, and the gradient of the scores of its own.

    Both in place. `sums_GQ` are the logarithms from there, and the mean gradient of every row's
    probabilities, weighed by them.
    """
    logs_GQ, means_GQ = sums_GQ
    for head in range(len(scores_GQN)):
        for query in range(scores_GQN.shape[1]):
            row, slope = scores_GQN[head, query], slopes_GQN[head, query]
            log, mean = logs_GQ[head, query], means_GQ[head, query]
            keys = _keys(drop, rows[0] + head * rows[1] + query)
            for at in range(len(row)):
                share = exponential(row[at] * scale - log)
                kept = share * (_ZERO if _is_dropped(at, keys, drop.limit) else drop.growth)
                row[at] = kept
                slope[at] = (kept * slope[at] - share * mean) * scale


@numba.njit(cache=True, nogil=True, **_LOOP)
def drop_out(source_RC, target_RC, drop, first):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Copy rows with dropout, of which the first is row `first` of it."""
    for row in range(len(source_RC)):
        source, target = source_RC[row], target_RC[row]
        keys = _keys(drop, first + row)
        for at in range(len(source)):
            target[at] = source[at] * (_ZERO if _is_dropped(at, keys, drop.limit) else drop.growth)


@numba.njit(cache=True, nogil=True, **_LOOP)
def cross_entropy(logits_RV, bias_V, labels_R, losses_R):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Give the losses in nats, and the gradient of their sum in the place of the logits.

    `bias_V` is added to the logits. A row whose label is negative has no loss and no gradient.
    """
    for row in range(len(logits_RV)):
        logits, label = logits_RV[row], labels_R[row]
        if label < 0:
            logits[:] = _ZERO
            losses_R[row] = _ZERO
            continue
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
