"""Words: what GPT-2's pattern cuts texts into before any merge, and how often each occurs.

The pattern is a compiled loop over UTF-8. What kind of character each one is, the reference library
is asked, once for each that occurs: so no version of Unicode but the reference's plays a part.
Counting takes memory by distinct words, not by text; neither the order of texts nor how they are
dealt to tasks shows in the counts. Measured (prose, one core): 130 MB/s.
"""

from functools import cache

import numba
import numpy as np
import numpy.typing as npt

from corpus.tokenizer import split_words

UInt8s = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]

_UNKNOWN, _LETTER, _DIGIT, _SIGN, _SPACE = range(5)
_CODE_POINTS = 0x110000
_FNV_START, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3  # FNV-1a of 64 bits
_FIRST_ROOM = 1 << 12  # words a table begins with room for; it doubles. Any size would do.
# Text whose words are listed at a time, 8 bytes each byte at the worst. Guess.
_BATCH_BYTES = 4 * 2**20


class Words:
    """Distinct words of texts in the order of their first occurrence, with their counts."""

    def __init__(self) -> None:
        """Begin with no words."""
        self._size = 0
        self._index = np.full(4 * _FIRST_ROOM, -1, np.int32)
        self._hashes = np.empty(_FIRST_ROOM, np.uint64)
        self._starts = np.zeros(_FIRST_ROOM + 1, np.int64)
        self._counts = np.empty(_FIRST_ROOM, np.int64)
        self._pool = np.empty(8 * _FIRST_ROOM, np.uint8)

    @property
    def data(self) -> UInt8s:
        """The words' bytes, one word after another."""
        return self._pool[: self._starts[self._size]]

    @property
    def offsets(self) -> Int64s:
        """Where each word begins in `data`: [words + 1]."""
        return self._starts[: self._size + 1]

    @property
    def counts(self) -> Int64s:
        """How often each word occurs."""
        return self._counts[: self._size]

    def count_texts(self, data: UInt8s, offsets: Int64s) -> None:
        """Count the words of texts, given as UTF-8 and [texts + 1] offsets."""
        kinds, start = _kinds_in(data, offsets), 0
        while start < len(offsets) - 1:
            stop = int(np.searchsorted(offsets, offsets[start] + _BATCH_BYTES, side="right")) - 1
            stop = min(max(stop, start + 1), len(offsets) - 1)
            bounds = np.empty(offsets[stop] - offsets[start] + 1, np.int64)
            count = _split(data, offsets[start : stop + 1], kinds, bounds)
            self.add(data, bounds[: count + 1], np.ones(1, np.int64))
            start = stop

    def add(self, data: UInt8s, bounds: Int64s, weights: Int64s) -> None:
        """Add words that lie at [words + 1] bounds, each so many times; one weight is for all."""
        words, start = (data, bounds, weights), 0
        while start < len(bounds) - 1:
            table = (self._index, self._hashes, self._starts, self._counts, self._pool)
            start, self._size = _add(words, start, table, self._size)
            if start < len(bounds) - 1:
                self._grow(int(bounds[start + 1] - bounds[start]))

    def _grow(self, word_bytes: int) -> None:
        room = 2 * len(self._counts)
        self._hashes = np.resize(self._hashes, room)
        self._counts = np.resize(self._counts, room)
        self._starts = np.resize(self._starts, room + 1)
        self._pool = np.resize(self._pool, 2 * len(self._pool) + word_bytes)
        self._index = np.full(4 * room, -1, np.int32)
        _fill_index(self._index, self._hashes[: self._size])


@cache
def _kinds() -> UInt8s:
    """Return the kinds of the code points that this process has met so far."""
    return np.zeros(_CODE_POINTS, np.uint8)


def _kinds_in(data: UInt8s, offsets: Int64s) -> UInt8s:
    kinds, seen = _kinds(), np.zeros(_CODE_POINTS, np.bool_)
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
def _point_at(data, i):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Decode the character at i of valid UTF-8: its code point and its bytes."""
    first = np.int64(data[i])
    if first < 0x80:
        return first, 1
    second = np.int64(data[i + 1] & 0x3F)
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(data[i + 2] & 0x3F)
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | np.int64(data[i + 3] & 0x3F), 4


@numba.njit(cache=True)
def _mark_points(data, start, stop, seen):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    i = start
    while i < stop:
        point, width = _point_at(data, i)
        seen[point] = True
        i += width


@numba.njit(cache=True)
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
    point, width = _point_at(data, i)
    kind = kinds[point]
    i += width
    if first == ord(" ") and i < stop:
        point, width = _point_at(data, i)
        if kinds[point] != _SPACE:
            kind = kinds[point]
            i += width
    while i < stop:
        point, width = _point_at(data, i)
        if kinds[point] != kind:
            break
        last = i
        i += width
    # White space before something leaves its last character to that.
    return last if kind == _SPACE and i < stop and last > begin else i


@numba.njit(cache=True)
def _split(data, offsets, kinds, bounds):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Write where words end, after where the first begins; return how many there are."""
    count, i = 0, offsets[0]
    bounds[0] = i
    for text in range(len(offsets) - 1):
        while i < offsets[text + 1]:
            i = _word_end(data, i, offsets[text + 1], kinds)
            count += 1
            bounds[count] = i
    return count


@numba.njit(cache=True)
def _hash(data, start, stop):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    value = np.uint64(_FNV_START)
    for i in range(start, stop):
        value = (value ^ np.uint64(data[i])) * np.uint64(_FNV_PRIME)
    return value ^ (value >> np.uint64(32))


@numba.njit(cache=True)
def _fill_index(index, hashes):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    mask = np.uint64(len(index) - 1)
    for entry in range(len(hashes)):
        slot = hashes[entry] & mask
        while index[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        index[slot] = entry


@numba.njit(cache=True)
def _same(data, start, stop, pool, at):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    i = 0
    while i < stop - start and data[start + i] == pool[at + i]:
        i += 1
    return i == stop - start


@numba.njit(cache=True)
def _add(words, start, table, size):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Count words from the given one on; return where room ran out, and the number of entries."""
    data, bounds, weights = words
    index, hashes, starts, counts, pool = table
    mask = np.uint64(len(index) - 1)
    for word in range(start, len(bounds) - 1):
        low, high = bounds[word], bounds[word + 1]
        value = _hash(data, low, high)
        slot = value & mask
        entry = index[slot]
        while entry >= 0:
            same = hashes[entry] == value and starts[entry + 1] - starts[entry] == high - low
            if same and _same(data, low, high, pool, starts[entry]):
                break
            slot = (slot + np.uint64(1)) & mask
            entry = index[slot]
        weight = weights[word] if len(weights) > 1 else weights[0]
        if entry >= 0:
            counts[entry] += weight
            continue
        if size == len(counts) or starts[size] + high - low > len(pool):
            return word, size
        pool[starts[size] : starts[size] + high - low] = data[low:high]
        index[slot], hashes[size], counts[size] = size, value, weight
        starts[size + 1] = starts[size] + high - low
        size += 1
    return len(bounds) - 1, size
