"""Words of a UTF-8 text: where they are, their hashes, and what stands in them.

`words_of` in `pipeline/reference.py` defines a word. The hash is a multiplicative one whose
multiplier is the golden ratio (Knuth, TAOCP 3, 6.4), before its last scrambling.
"""

import numba
import numpy as np

from pipeline.characters import (
    ALPHABETIC,
    CLOSING,
    LETTER,
    SPACE,
    STOP_WORDS,
    TERMINAL,
    UNSPACED,
)
from pipeline.kernels import GOLDEN, SEED, Int64s, UInt8s, UInt64s, character_at, mix
from pipeline.wide import eight, first_bytes, plain_bytes

BYTE = 2**32 - 1  # of an edge of a word: the offset of its byte; the character's is above

# Stop words have up to four ASCII letters, so they are 32-bit numbers; this factor, found by trying
# odd ones, sends them to different slots of 16. Of a longer word no byte is kept.
_STOP_FACTOR = np.uint32(2334851559)
STOP_SLOTS = np.zeros(16, np.uint32)
for _word in STOP_WORDS:
    _packed = int.from_bytes(_word.encode(), "little")
    STOP_SLOTS[(_packed * int(_STOP_FACTOR) & 0xFFFFFFFF) >> 28] = _packed
_KEPT = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF, 0], np.uint32)


@numba.njit(cache=True, forceinline=True)
def character_before(text: UInt8s, stop: int) -> tuple[int, int]:
    """Return the character that ends at `stop`, and where it starts."""
    start = stop - 1
    while text[start] & 0xC0 == 0x80:
        start -= 1
    return character_at(text, start)[0], start


@numba.njit(cache=True)
def _has_letter(text: UInt8s, start: int, stop: int, classes: UInt8s) -> bool:
    while start < stop:
        code, width = character_at(text, start)
        if classes[code] & LETTER:
            return True
        start += width
    return False


@numba.njit(cache=True)
def _cut_unspaced(text: UInt8s, classes: UInt8s, hashes: UInt64s, edges: Int64s) -> int:
    """Cut a text in any scripts, a character at a time.

    Without a branch on where words end: see `pipeline/kernels.py`.
    """
    i = position = count = inside = after = 0
    state = np.uint64(SEED)
    while i < len(text):
        code, width = character_at(text, i)
        kind = classes[code]
        edge = i | position << 32
        if (kind & UNSPACED) | after:
            if kind & SPACE:
                after = 0
            elif kind & LETTER:
                begin = edges[count - 1] & BYTE
                if after or (inside and _has_letter(text, begin, i, classes)):
                    hashes[count >> 1] = state
                    edges[count] = edges[count + 1] = edge
                    count += 2
                    state = np.uint64(SEED)
                after = int(kind & UNSPACED)
        joined = 0 if kind & SPACE else 1
        hashes[count >> 1], edges[count] = state, edge  # stands only where the next line counts it
        count += joined ^ inside
        longer = (state ^ np.uint64(code)) * np.uint64(GOLDEN)
        state = longer if joined else np.uint64(SEED)
        inside = joined
        i, position = i + width, position + 1
    hashes[count >> 1], edges[count] = state, i | position << 32
    return (count + inside) >> 1


@numba.njit(cache=True)
def cut_words(text: UInt8s, classes: UInt8s, hashes: UInt64s, edges: Int64s) -> int:
    """Write hash, start and end of every word, an edge as byte + character << 32; count words.

    A hash is still to be scrambled; those of two texts do not compare.
    """
    i = count = hidden = 0  # hidden: bytes so far that begin no character
    while True:
        code, width = 0x20, 0
        while i < len(text):
            code, width = character_at(text, i)
            if not classes[code] & SPACE:
                break
            i, hidden = i + width, hidden + width - 1
        if i == len(text):
            return count
        edges[2 * count] = i | (i - hidden) << 32
        state = np.uint64(SEED)
        while i < len(text):
            chunk = eight(text, i)
            plain = plain_bytes(chunk)
            i += plain
            if plain == 8:
                state = mix(state ^ chunk)
                continue
            state ^= first_bytes(chunk, plain)
            if i == len(text):
                break
            code, width = character_at(text, i)
            if classes[code] & SPACE:
                break
            if classes[code] & UNSPACED:
                return _cut_unspaced(text, classes, hashes, edges)
            state = mix(mix(state) ^ np.uint64(code))
            i, hidden = i + width, hidden + width - 1
        hashes[count], edges[2 * count + 1] = state, i | (i - hidden) << 32
        count += 1


@numba.njit(cache=True, forceinline=True)
def classes_in(text: UInt8s, start: int, stop: int, classes: UInt8s) -> np.uint8:
    """Return the classes of a word up to its first alphabetic character: more change nothing."""
    found = np.uint8(0)
    if text[start] < 0x80:  # which most begin with
        found, start = classes[text[start]], start + 1
    while start < stop and not found & ALPHABETIC:
        code, width = character_at(text, start)
        found |= classes[code]
        start += width
    return found


@numba.njit(cache=True, forceinline=True)
def ends_sentence(text: UInt8s, start: int, stop: int, classes: UInt8s) -> int:
    """Return 1 where a word ends in a terminal mark, whatever closes after it."""
    kind = classes[text[stop - 1]]
    if text[stop - 1] < 0x80 and not kind & CLOSING:
        return 1 if kind & TERMINAL else 0
    while stop > start:
        code, stop = character_before(text, stop)
        if not classes[code] & CLOSING:
            return 1 if classes[code] & TERMINAL else 0
    return 0


@numba.njit(cache=True, forceinline=True)
def stop_word_bit(text: UInt8s, start: int, stop: int) -> int:
    """Return the bit of the stop word that stands here, 0 for none; without a branch."""
    packed = np.uint32(eight(text, start)) | np.uint32(0x20202020)
    packed &= _KEPT[min(stop - start, 5)]
    slot = np.uint32(packed * _STOP_FACTOR) >> np.uint32(28)
    return int(STOP_SLOTS[slot] == packed) << int(slot)
