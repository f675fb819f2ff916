"""The compiled loops behind signatures: words, shingles, minima and band keys of a batch.

They walk UTF-8 once, lower each character by a table and write the state of every character
without a branch on where words end, for a wrong guess there costs more than the hash itself.
The word hash is a multiplicative one whose multiplier is the golden ratio (Knuth, TAOCP 3, 6.4),
scrambled at its end. Shingles are polynomials of word hashes, rolled on by one word at a time.

Minima are of 32 bits, for AVX2 multiplies and compares those eight at a time, and 64 not at all.
"""

import numba
import numpy as np
import numpy.typing as npt

from corpus.compiled import share_compiled_code

share_compiled_code()

UInt8s = npt.NDArray[np.uint8]
UInt32s = npt.NDArray[np.uint32]
UInt64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]

# A letter is 0 for a separator, else the lower-case code point, marked where it is its own word.
SINGLE = 1 << 31
# Capitals that no table can lower: the dotted I becomes two characters, and sigma looks at its
# neighbours. All others are one character and alone (Unicode's SpecialCasing.txt).
SPECIAL_CAPITALS = "\u0130\u03a3"

SEED, GOLDEN = 0xCBF29CE484222325, 0x9E3779B97F4A7C15  # FNV's offset; 2^64 over the golden ratio
_BLOCK = 2048  # shingles of a pass over the permutations: 8 KiB of halves, to fit the cache. Guess


@numba.njit(cache=True, forceinline=True)
def mix(value: np.uint64) -> np.uint64:
    """Scramble a number by the finalizer of splitmix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@numba.njit(cache=True)
def decode(data: UInt8s, i: int) -> tuple[np.int64, int]:
    """Return the code point at byte i, which is not ASCII, and how many bytes it takes."""
    # The input is valid UTF-8 by construction, and not ASCII at i.
    first = data[i]
    if first < 0xE0:
        return (np.int64(first & 0x1F) << 6) | (data[i + 1] & 0x3F), 2
    middle = np.int64(data[i + 1] & 0x3F)
    if first < 0xF0:
        return (np.int64(first & 0x0F) << 12) | (middle << 6) | (data[i + 2] & 0x3F), 3
    tail = (np.int64(data[i + 2] & 0x3F) << 6) | (data[i + 3] & 0x3F)
    return (np.int64(first & 0x07) << 18) | (middle << 12) | tail, 4


@numba.njit(cache=True, forceinline=True)
def character_at(data: UInt8s, i: int) -> tuple[int, int]:
    """Return the character that starts at byte i of valid UTF-8, and its bytes."""
    if data[i] < 0x80:
        return int(data[i]), 1
    code, width = decode(data, i)
    return int(code), width


@numba.njit(cache=True)
def encode(code: int, out: UInt8s, i: int) -> int:
    """Write a code point as UTF-8 at byte i; return where the next one goes."""
    if code < 0x80:
        out[i] = code
        return i + 1
    if code < 0x800:
        out[i] = 0xC0 | (code >> 6)
    else:
        if code < 0x10000:
            out[i] = 0xE0 | (code >> 12)
        else:
            out[i] = 0xF0 | (code >> 18)
            out[i + 1] = 0x80 | ((code >> 12) & 0x3F)
            i += 1
        out[i + 1] = 0x80 | ((code >> 6) & 0x3F)
        i += 1
    out[i + 1] = 0x80 | (code & 0x3F)
    return i + 2


@numba.njit(cache=True)
def word_hashes(data: UInt8s, start: int, stop: int, letters: UInt32s, out: UInt64s) -> int:
    """Write the hash of every word of a text; return how many there are."""
    count, i, inside = 0, start, 0
    state = np.uint64(SEED)
    while i < stop:
        code, width = np.int64(data[i]), 1
        if code >= 0x80:
            code, width = decode(data, i)
        i += width
        letter = letters[code]
        if letter >= np.uint32(SINGLE):
            out[count] = state
            count += inside
            out[count] = (np.uint64(SEED) ^ np.uint64(letter)) * np.uint64(GOLDEN)
            count += 1
            letter, inside = np.uint32(0), 0
        joined = 1 if letter != 0 else 0
        out[count] = state  # stands only where the next line counts it
        count += inside & (1 - joined)
        longer = (state ^ np.uint64(letter)) * np.uint64(GOLDEN)
        state = longer if joined else np.uint64(SEED)
        inside = joined
    out[count] = state
    return count + inside


@numba.njit(cache=True)
def _roll(words: UInt64s, count: int, ngram: int, out: UInt64s) -> None:
    """Write the hash of every n-gram of the first `count` words."""
    oldest = np.uint64(1)
    for i in range(count):
        words[i] = mix(words[i])
    for _ in range(ngram):
        oldest *= np.uint64(GOLDEN)
    state = np.uint64(0)
    for i in range(min(ngram - 1, count)):
        state = state * np.uint64(GOLDEN) + words[i]
    for i in range(count - ngram + 1):
        state = state * np.uint64(GOLDEN) + words[i + ngram - 1]
        if i:
            state -= words[i - 1] * oldest
        out[i] = mix(state)


@numba.njit(cache=True)
def shingle_lists(
    data: UInt8s, ends: Int64s, letters: UInt32s, ngram: int
) -> tuple[UInt64s, Int64s]:
    """Return every shingle of the texts in the order of reading, and [texts + 1] offsets."""
    longest = 0
    for t in range(len(ends) - 1):
        longest = max(longest, ends[t + 1] - ends[t])
    words = np.empty(longest + 1, np.uint64)
    shingles = np.empty(len(data) + 1, np.uint64)
    offsets = np.zeros(len(ends), np.int64)
    for t in range(len(ends) - 1):
        count = word_hashes(data, ends[t], ends[t + 1], letters, words)
        _roll(words, count, ngram, shingles[offsets[t] :])
        offsets[t + 1] = offsets[t] + max(0, count - ngram + 1)
    return shingles[: offsets[-1]], offsets


@numba.njit(cache=True)
def distinct(shingles: UInt64s, offsets: Int64s) -> tuple[UInt64s, Int64s]:
    """Drop repeated neighbours within each text."""
    kept = np.empty(len(shingles), np.uint64)
    starts = np.zeros(len(offsets), np.int64)
    count = 0
    for t in range(len(offsets) - 1):
        for s in range(offsets[t], offsets[t + 1]):
            if s == offsets[t] or shingles[s] != shingles[s - 1]:
                kept[count] = shingles[s]
                count += 1
        starts[t + 1] = count
    return kept[:count].copy(), starts


@numba.njit(cache=True)
def _least(halves: UInt32s, multiplier: np.uint32, addend: np.uint32) -> np.uint32:
    # A reduction that LLVM turns into vectors of 32-bit products and minima.
    least = np.uint32(0xFFFFFFFF)
    for i in range(len(halves)):
        value = np.uint32(multiplier * halves[i] + addend)
        least = value if value < least else least
    return least


@numba.njit(cache=True)
def minima(shingles: UInt64s, offsets: Int64s, multipliers: UInt32s, addends: UInt32s) -> UInt32s:
    """Return each text's least permuted upper half of a shingle: [texts, permutations]."""
    found = np.full((len(offsets) - 1, len(multipliers)), np.uint32(0xFFFFFFFF), np.uint32)
    halves = np.empty(len(shingles), np.uint32)
    for s in range(len(shingles)):
        halves[s] = np.uint32(shingles[s] >> np.uint64(32))
    for t in range(len(offsets) - 1):
        for start in range(offsets[t], offsets[t + 1], _BLOCK):
            block = halves[start : min(start + _BLOCK, offsets[t + 1])]
            for p in range(len(multipliers)):
                found[t, p] = min(found[t, p], _least(block, multipliers[p], addends[p]))
    return found


@numba.njit(cache=True)
def band_keys(signatures: UInt32s, bands: int, rows: int) -> UInt64s:
    """Hash the rows of each band, the band's number first: [texts, bands]."""
    keys = np.empty((len(signatures), bands), np.uint64)
    for t in range(len(signatures)):
        for band in range(bands):
            state = mix(np.uint64(band + 1) * np.uint64(GOLDEN))
            for r in range(rows):
                minimum = np.uint64(signatures[t, band * rows + r])
                state = mix(state ^ minimum) + np.uint64(GOLDEN)
            keys[t, band] = state
    return keys
