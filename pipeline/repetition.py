"""Repeated items and n-grams of words, counted from 64-bit hashes.

An n-gram that occurs once holds none that is longer and occurs twice. So each length looks only at
places where both shorter n-grams occurred again: on plain prose nearly all work is in the pairs,
and repeated n-grams of five words and more cost next to nothing.
"""

import numba
import numpy as np

from pipeline.kernels import GOLDEN, Int64s, UInt8s, UInt64s

_TOP, _LONGEST = 4, 10  # the longest n-gram of Gopher's "top" shares, and of its repeated ones


@numba.njit(cache=True)
def _table(items: int) -> tuple[Int64s, np.uint64]:
    """Return an empty table at most half full, and the shift that makes a slot of a key."""
    bits = 1
    while 1 << bits < 2 * items:
        bits += 1
    return np.full(1 << bits, -1, np.int32), np.uint64(64 - bits)


@numba.njit(cache=True)
def _find(keys: UInt64s, i: int, table: tuple[Int64s, np.uint64]) -> int:
    """Return the first place with the key at i; that is i itself if none was entered before."""
    slots, shift = table
    slot = np.int64((keys[i] * np.uint64(GOLDEN)) >> shift)
    while slots[slot] >= 0 and keys[slots[slot]] != keys[i]:
        slot = (slot + 1) & (len(slots) - 1)
    if slots[slot] < 0:
        slots[slot] = i
    return int(slots[slot])


@numba.njit(cache=True)
def count_repeated(keys: UInt64s, lengths: Int64s, counts: Int64s) -> None:
    """Count items that were there before, and their characters, into two counts."""
    table = _table(len(keys))
    for i in range(len(keys)):
        if _find(keys, i, table) != i:
            counts[0] += 1
            counts[1] += lengths[i]


@numba.njit(cache=True)
def _top(grams: UInt64s, again: UInt8s, recurring: int) -> tuple[int, int]:
    """Return the first of the most common n-grams and its count; narrow `again` to those recur."""
    table = _table(recurring)
    times = np.ones(len(grams), np.int64)  # of a first place: how often; of others: below zero
    best = 0
    for i in range(len(grams)):
        if again[i]:
            first = _find(grams, i, table)
            if first != i:
                times[first] += 1
                times[i] = -1
    for i in range(len(grams)):
        best = i if times[i] > times[best] else best
        again[i] = times[i] != 1
    return best, times[best]


@numba.njit(cache=True)
def _repeated(grams: UInt64s, again: UInt8s, recurring: int, n: int, codes: Int64s) -> int:
    """Read from the left, skip an n-gram seen before as a whole; return those's characters."""
    table = _table(recurring)
    i = characters = 0
    while i < len(grams):
        if again[i] and _find(grams, i, table) != i:
            for word in range(i, i + n):
                characters += codes[word] >> 1
            i += n
        else:
            i += 1
    return characters


@numba.njit(cache=True)
def count_ngrams(words: UInt64s, codes: Int64s, counts: Int64s) -> None:
    """Count the characters of the most common and of repeated n-grams, into one count a length.

    words: hashes; codes: characters times two, plus 1 in a script that writes no spaces.
    """
    grams, again = words.copy(), np.ones(len(words), np.uint8)
    for n in range(2, min(_LONGEST, len(words)) + 1):
        places, recurring = len(words) - n + 1, 0
        for i in range(places):
            grams[i] = grams[i] * np.uint64(GOLDEN) + words[i + n - 1]
            again[i] &= again[i + 1]
            recurring += again[i]
        if n <= _TOP:
            best, times = _top(grams[:places], again, recurring)
            characters = codes[best] >> 1
            for word in range(best + 1, best + n):
                characters += codes[word] >> 1
                characters += 0 if (codes[word - 1] | codes[word]) & 1 else 1
            counts[n - 2] = times * characters
        elif recurring:
            counts[n - 2] = _repeated(grams[:places], again, recurring, n, codes)
