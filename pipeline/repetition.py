"""Repeated items and n-grams of words, counted from 64-bit hashes.

An n-gram that occurs once holds none that is longer and occurs twice. So each length looks only at
places where both shorter n-grams occurred again: on plain prose nearly all work is in the pairs,
most of which a table of bytes tells to occur once, and longer n-grams cost next to nothing.
"""

import numba
import numpy as np

from pipeline.kernels import GOLDEN, Int64s, UInt64s

_TOP, _LONGEST = 4, 10  # the longest n-gram of Gopher's "top" shares, and of its repeated ones


@numba.njit(cache=True)
def _table(items: int) -> tuple[Int64s, np.uint64]:
    """Return an empty table at most half full, and the shift that makes a slot of a key."""
    bits = 1
    while 1 << bits < 2 * items:
        bits += 1
    return np.full(1 << bits, -1, np.int32), np.uint64(64 - bits)


@numba.njit(cache=True, forceinline=True)
def _find(keys: UInt64s, i: int, slots: Int64s, shift: np.uint64) -> int:
    """Return the first place with the key at i; that is i itself if none was entered before."""
    slot = np.int64((keys[i] * np.uint64(GOLDEN)) >> shift)
    while slots[slot] >= 0 and keys[slots[slot]] != keys[i]:
        slot = (slot + 1) & (len(slots) - 1)
    if slots[slot] < 0:
        slots[slot] = i
    return int(slots[slot])


@numba.njit(cache=True)
def count_repeated(keys: UInt64s, lengths: Int64s, counts: Int64s) -> None:
    """Count items that were there before, and their characters, into two counts."""
    slots, shift = _table(len(keys))
    for i in range(len(keys)):
        if _find(keys, i, slots, shift) != i:
            counts[0] += 1
            counts[1] += lengths[i]


@numba.njit(cache=True)
def _pairs(words: UInt64s) -> tuple[Int64s, UInt64s]:
    """Return the places whose pair of words may recur, and the pairs; few others are among them.

    A byte stands for all pairs of a slot: no branch, where a table of the pairs would guess wrong.
    """
    bits = 4
    while 1 << bits < 8 * len(words):
        bits += 1
    shift = np.uint64(64 - bits)
    met, pairs = np.zeros(1 << bits, np.uint8), np.empty(len(words), np.uint64)
    for i in range(len(words) - 1):
        pairs[i] = words[i] * np.uint64(GOLDEN) + words[i + 1]
        slot = np.int64((pairs[i] * np.uint64(GOLDEN)) >> shift)
        met[slot] = met[slot] << 1 | 1
    places, count = np.empty(len(words), np.int64), 0
    for i in range(len(words) - 1):
        places[count], pairs[count] = i, pairs[i]
        count += met[np.int64((pairs[i] * np.uint64(GOLDEN)) >> shift)] > 1
    return places[:count], pairs[:count]


@numba.njit(cache=True)
def _top(places: Int64s, grams: UInt64s) -> tuple[int, int, int]:
    """Return the first of the most common n-grams and its count; narrow both to those that recur.

    Where none recurs the first one is that of place 0. The last number says how many are left.
    """
    (slots, shift), firsts = _table(len(grams)), np.empty(len(grams), np.int64)
    times = np.zeros(len(grams), np.int64)
    for k in range(len(grams)):
        firsts[k] = _find(grams, k, slots, shift)
        times[firsts[k]] += 1
    best, most, left = 0, 1, 0
    for k in range(len(grams)):
        if times[k] > most:
            best, most = places[k], times[k]
        places[left], grams[left] = places[k], grams[k]
        left += times[firsts[k]] > 1
    return best, most, left


@numba.njit(cache=True)
def _longer(places: Int64s, grams: UInt64s, words: UInt64s, n: int) -> int:
    """Go on from n-grams to those one word longer that may recur; return how many are left."""
    left = 0
    for k in range(len(places) - 1):
        i = places[k]
        longer = grams[k] * np.uint64(GOLDEN) + words[min(i + n, len(words) - 1)]
        places[left], grams[left] = i, longer
        left += places[k + 1] == i + 1
    return left


@numba.njit(cache=True)
def _repeated(places: Int64s, grams: UInt64s, n: int, codes: Int64s) -> int:
    """Read from the left, skip an n-gram seen before as a whole; return those's characters."""
    slots, shift = _table(len(grams))
    after = characters = 0
    for k in range(len(grams)):
        if places[k] >= after and _find(grams, k, slots, shift) != k:
            after = places[k] + n
            for word in range(places[k], after):
                characters += codes[word] >> 1
    return characters


@numba.njit(cache=True)
def count_ngrams(words: UInt64s, codes: Int64s, counts: Int64s) -> None:
    """Count the characters of the most common and of repeated n-grams, into one count a length.

    words: hashes; codes: characters times two, plus 1 in a script that writes no spaces.
    """
    if len(words) < 2:
        return
    places, grams = _pairs(words)
    left = len(places)
    for n in range(2, min(_LONGEST, len(words)) + 1):
        if n > 2:
            left = _longer(places[:left], grams[:left], words, n - 1)
        if n <= _TOP:
            best, times, left = _top(places[:left], grams[:left])
            characters = codes[best] >> 1
            for word in range(best + 1, best + n):
                characters += codes[word] >> 1
                characters += 0 if (codes[word - 1] | codes[word]) & 1 else 1
            counts[n - 2] = times * characters
        elif left:
            counts[n - 2] = _repeated(places[:left], grams[:left], n, codes)
