"""Loops over rows and tokens that numpy cannot do in one pass, compiled by numba.

Each is a few lines of integer arithmetic without state, so that its result is the same on every
machine; all release the interpreter's lock, so that batches can be drawn beside training. They are
compiled at their first call, for some seconds, and then lie in numba's cache.
"""

import numba
import numpy as np

from corpus.compiled import share_compiled_code
from corpus.shards import ROWS_PER_BATCH
from corpus.tokenizer import BOS_ID, EOS_ID

share_compiled_code()

# The increment and the finalizer of splitmix64 (Steele, Lea and Flood 2014).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)


@numba.njit(cache=True, nogil=True, inline="always")
def mix(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Scramble one 64-bit integer, as `dataset.mix64` does arrays."""
    value = (value ^ (value >> _30)) * MIX_1
    value = (value ^ (value >> _27)) * MIX_2
    return value ^ (value >> _31)


@numba.njit(cache=True, nogil=True)
def walk_feistel(indices, size, half_bits, round_keys, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Permute indices of [0, size) by a Feistel network, walked until it lands below `size`."""
    half_mask = (np.uint64(1) << half_bits) - np.uint64(1)
    for at in range(len(indices)):
        value = np.uint64(indices[at])
        while True:
            left, right = value >> half_bits, value & half_mask
            for round_key in round_keys:
                left, right = right, left ^ (mix(right + round_key) & half_mask)
            value = (left << half_bits) | right
            if value < size:
                break
        out[at] = value


@numba.njit(cache=True, nogil=True)
def copy_rows(columns, rows, targets, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Copy rows of a shard (`shards.Columns`) to places of `out`: ids, widened, and lengths."""
    ids, id_firsts, lengths, length_firsts = columns
    tokens, reals = out
    width = tokens.shape[1]
    for at in range(len(rows)):
        batch, within = rows[at] // ROWS_PER_BATCH, rows[at] % ROWS_PER_BATCH
        reals[targets[at]] = lengths[length_firsts[batch] + within]
        row = tokens[targets[at]]
        first = id_firsts[batch] + within * width
        held = ids[first : first + width]
        for place in range(width):
            row[place] = held[place]


@numba.njit(cache=True, nogil=True)
def find_starts(tokens, lengths, separate, starts):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    """Write where parts of rows begin, as far as there is room; return the most of a row.

    Parts begin at 0 and, where every piece is a sequence of its own (`separate`), at each `<s>`,
    else after each `</s>` that real tokens follow.
    """
    room, most = starts.shape[1], 1
    for row in range(len(tokens)):
        found = 1
        if room:
            starts[row, 0] = 0
        for place in range(1, lengths[row]):
            token = tokens[row, place] if separate else tokens[row, place - 1]
            if token == (BOS_ID if separate else EOS_ID):
                if found < room:
                    starts[row, found] = place
                found += 1
        most = max(most, found)
    return most
