"""Words: what GPT-2's pattern cuts texts into before any merge, and how often each occurs.

The pattern is a compiled loop over UTF-8. What kind of character each one is, the reference library
is asked, once for each that occurs: so no version of Unicode but the reference's plays a part.
Counting takes memory by distinct words, not by text; neither the order of texts nor how they are
dealt to tasks shows in the counts. Measured (prose, one core of a busy machine): 55 MB/s.
"""

from functools import cache
from typing import NamedTuple

import numba
import numpy as np

from corpus.tokenizer import split_words
from pipeline.code_points import CODE_POINTS
from pipeline.kernels import GOLDEN, SEED, Int64s, UInt8s, UInt64s, character_at, mix
from pipeline.wide import eight, first_bytes, letter_bytes

_UNKNOWN, _LETTER, _DIGIT, _SIGN, _SPACE = range(5)
_FIRST_ROOM = 1 << 12  # words a table begins with room for; it doubles. Any size would do.

# Words of up to seven bytes met last, by a hash of them: they are found in a quarter of a megabyte
# of memory, without a walk through the table. Measured on prose: 60 MB/s without, 88 with 2^12
# places, 113 with 2^14, 101 with 2^16.
_RECENT_BITS = 14
_SHORT = 8
_TO_PLACE, _TO_TOP_BYTE = np.uint64(64 - _RECENT_BITS), np.uint64(56)


class Counted(NamedTuple):
    """Distinct words with their counts.

    data: the words' bytes; offsets: [words + 1] where each begins in it; counts: [words].
    """

    data: UInt8s
    offsets: Int64s
    counts: Int64s


class Words:
    """Distinct words of texts in the order of their first occurrence, with their counts."""

    def __init__(self) -> None:
        """Begin with no words."""
        self._size = 0
        self._hashes = np.empty(_FIRST_ROOM, np.uint64)
        self._index = np.full(2 * _FIRST_ROOM, -1, np.int64)
        self._entries = np.zeros((_FIRST_ROOM + 1, 2), np.int64)
        self._pool = np.empty(8 * _FIRST_ROOM, np.uint8)
        self._recent = np.zeros((1 << _RECENT_BITS, 2), np.uint64)

    @property
    def counted(self) -> Counted:
        """The words so far; those that are counted later do not show in it."""
        places, counts = self._entries[: self._size + 1].T.copy()
        return Counted(self._pool[: places[-1]], places, counts[:-1])

    @property
    def hashes(self) -> UInt64s:
        """The hash of each word, which depends on its bytes alone: [words]."""
        return self._hashes[: self._size]

    def count_texts(self, data: UInt8s, offsets: Int64s) -> None:
        """Count the words of texts, given as UTF-8 and [texts + 1] offsets."""
        texts, kinds = (data, offsets), _kinds_in(data, offsets)
        text, place = 0, int(offsets[0])
        while text < len(offsets) - 1:
            table = (self._index, self._hashes, self._entries, self._pool)
            given = (texts, kinds, text, place)
            text, place, self._size = _count(given, table, self._recent, self._size)
            if text < len(offsets) - 1:
                self._grow()

    def add(self, words: Counted) -> None:
        """Add words that are counted already."""
        start = 0
        while start < len(words.counts):
            table = (self._index, self._hashes, self._entries, self._pool)
            start, self._size = _add(words, start, table, self._size)
            if start < len(words.counts):
                self._grow()

    def _grow(self) -> None:
        room = 2 * len(self._hashes)
        self._hashes = np.resize(self._hashes, room)
        self._entries = np.resize(self._entries, (room + 1, 2))
        self._pool = np.resize(self._pool, 2 * len(self._pool))
        self._index = np.full(2 * room, -1, np.int64)
        _fill_index(self._index, self._hashes[: self._size])


@cache
def _kinds() -> UInt8s:
    """Return the kinds of the code points that this process has met so far."""
    return np.zeros(CODE_POINTS, np.uint8)


def _kinds_in(data: UInt8s, offsets: Int64s) -> UInt8s:
    kinds, seen = _kinds(), np.zeros(CODE_POINTS, np.bool_)
    _mark_points(data, offsets[0], offsets[-1], seen)
    for point in np.flatnonzero(seen & (kinds == _UNKNOWN)).tolist():
        kinds[point] = _kind_of(chr(point))
    return kinds


def _kind_of(char: str) -> int:
    """Ask the reference with what a character stays in one word."""
    words = split_words(f"a{char}a1{char}1!{char}! {char}")
    for kind, one in ((_LETTER, "a"), (_DIGIT, "1"), (_SIGN, "!")):
        if f"{one}{char}{one}".encode() in words:
            return kind
    return _SPACE


@numba.njit(cache=True)
def _mark_points(data, start, stop, seen):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    i = start
    while i < stop:
        point, width = character_at(data, i)
        seen[point] = True
        i += width


@numba.njit(cache=True, forceinline=True)
def _word_end(data, i, stop, kinds):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the end of the word at i, as GPT-2's pattern has it.

    's|'t|'re|'ve|'m|'ll|'d| ?letters| ?digits| ?signs|white space but its last|white space
    """
    first = data[i]
    if first == ord("'") and i + 1 < stop:
        a = data[i + 1]
        if a == ord("s") or a == ord("t") or a == ord("m") or a == ord("d"):
            return i + 2
        b = data[i + 2] if i + 2 < stop else 0
        if b == ord("e") and (a == ord("r") or a == ord("v")):
            return i + 3
        if a == ord("l") and b == ord("l"):
            return i + 3
    begin = last = i
    point, width = character_at(data, i)
    kind = kinds[point]
    i += width
    if first == ord(" ") and i < stop:
        point, width = character_at(data, i)
        if kinds[point] != _SPACE:
            kind = kinds[point]
            i += width
    if kind == _LETTER:
        # ASCII letters go eight at a time; where the last began matters to white space alone.
        width = 8
        while width == 8:
            width = min(letter_bytes(eight(data, i)), stop - i)
            i += width
    while i < stop:
        point, width = character_at(data, i)
        if kinds[point] != kind:
            break
        last = i
        i += width
    # White space before something leaves its last character to that.
    return last if kind == _SPACE and i < stop and last > begin else i


@numba.njit(cache=True, forceinline=True)
def _hash(data, start, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    value = np.uint64(SEED)
    while stop - start > 7:
        value = mix(value ^ eight(data, start))
        start += 8
    return mix(value ^ first_bytes(eight(data, start), stop - start))


# A table of words: `index` holds, by the low bits of the words' hashes, the number of an entry
# below the high bits, or -1; `hashes`; `entries`: where a word begins in `pool`, and its count.


@numba.njit(cache=True)
def _pack(value, entry):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    return np.int64(value >> np.uint64(33)) << 32 | entry


@numba.njit(cache=True)
def _fill_index(index, hashes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    mask = len(index) - 1
    for entry in range(len(hashes)):
        slot = np.int64(hashes[entry]) & mask
        while index[slot] >= 0:
            slot = (slot + 1) & mask
        index[slot] = _pack(hashes[entry], entry)


@numba.njit(cache=True, forceinline=True)
def _same(data, start, stop, pool, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    while stop - start > 7:
        if eight(data, start) != eight(pool, at):
            return False
        start, at = start + 8, at + 8
    return first_bytes(eight(data, start) ^ eight(pool, at), stop - start) == 0


@numba.njit(cache=True, forceinline=True)
def _find(data, span, value, index, entries, pool):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the slot of a word and its entry, -1 where it has none yet."""
    low, high = span
    mask = len(index) - 1
    slot, tag = np.int64(value) & mask, np.int64(value >> np.uint64(33))
    while index[slot] >= 0:
        if index[slot] >> 32 == tag:
            entry = index[slot] & 0xFFFFFFFF
            at = entries[entry, 0]
            if entries[entry + 1, 0] - at == high - low and _same(data, low, high, pool, at):
                return slot, entry
        slot = (slot + 1) & mask
    return slot, np.int64(-1)


@numba.njit(cache=True)
def _append(data, span, hashed, count, table, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Enter a new word; return the new number of entries, or -1 where there is no room for it."""
    (low, high), (value, slot) = span, hashed
    index, hashes, entries, pool = table
    start = entries[size, 0]
    if size == len(hashes) or start + high - low > len(pool):
        return -1
    for i in range(high - low):
        pool[start + i] = data[low + i]
    index[slot], hashes[size], entries[size, 1] = _pack(value, size), value, count
    entries[size + 1, 0] = start + high - low
    return size + 1


@numba.njit(cache=True, forceinline=True)
def _brief(data, low, high):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return a word of up to seven bytes as one number, its length in the top byte."""
    length = high - low
    return first_bytes(eight(data, low), length) | np.uint64(length) << _TO_TOP_BYTE


@numba.njit(cache=True)
def _count(given, table, recent, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count words from a place of a text on; return where room ran out and how many there are.

    `recent` holds short words and their entries.
    """
    (data, offsets), kinds, text, place = given
    index, _, entries, pool = table  # once: what unpacks arrays a word takes most of its time
    while text < len(offsets) - 1:
        while place < offsets[text + 1]:
            span = (place, _word_end(data, place, offsets[text + 1], kinds))
            brief = np.uint64(0)
            if span[1] - place < _SHORT:
                brief = _brief(data, place, span[1])
            at = np.int64((brief * np.uint64(GOLDEN)) >> _TO_PLACE)
            if brief and recent[at, 0] == brief:
                entries[np.int64(recent[at, 1]), 1] += 1
                place = span[1]
                continue
            value = _hash(data, span[0], span[1])
            slot, entry = _find(data, span, value, index, entries, pool)
            if entry >= 0:
                entries[entry, 1] += 1
            else:
                entry = size
                entered = _append(data, span, (value, slot), 1, table, size)
                if entered < 0:
                    return text, place, size
                size = entered
            if brief:
                recent[at, 0], recent[at, 1] = brief, entry
            place = span[1]
        text += 1
    return text, place, size


@numba.njit(cache=True)
def _add(words, start, table, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Add counted words from one on; return where room ran out and how many there are."""
    data, bounds, counts = words
    index, _, entries, pool = table
    for word in range(start, len(counts)):
        span = (bounds[word], bounds[word + 1])
        value = _hash(data, span[0], span[1])
        slot, entry = _find(data, span, value, index, entries, pool)
        if entry >= 0:
            entries[entry, 1] += counts[word]
            continue
        entered = _append(data, span, (value, slot), counts[word], table, size)
        if entered < 0:
            return word, size
        size = entered
    return len(counts), size
