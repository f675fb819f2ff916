"""The compiled counts behind the rules: one walk over the UTF-8 of a batch of texts.

`pipeline/reference.py` defines every count; tests hold the two equal. The walk cuts words and
lines and hashes both with 64 bits, so two different words, lines or n-grams are taken for one with
probability of about 2^-64 a pair. Words live in scratch memory of one text, which stays in the
cache; lines of the whole batch are kept for C4 (`pipeline/lines.py`). What is rare in a text, such
as an ellipsis, is looked for by loops that compilers turn into vectors.
"""

from typing import NamedTuple

import numba
import numpy as np

from pipeline.characters import (
    ALPHABETIC,
    BULLETS,
    CLOSING,
    LETTER,
    QUOTES,
    SHORT_LINE,
    SPACE,
    STOP_WORDS,
    TERMINAL,
    UNMARKED,
    UNSPACED,
    class_table,
)
from pipeline.kernels import Int64s, UInt8s, UInt64s, _decode, _mix
from pipeline.repetition import count_ngrams, count_repeated

# The columns of a matrix of counts.
COUNTS = (
    "characters",
    "newlines",
    "characters_but_newlines",
    "words",
    "word_characters",
    "alphabetic_words",
    "unspaced_words",
    "unmarked_words",
    "stop_words",
    "hashes",
    "ellipses",
    "lines",
    "bullet_lines",
    "ellipsis_lines",
    "marked_lines",
    "short_lines",
    "duplicate_lines",
    "duplicate_line_characters",
    "paragraphs",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
    *(f"top_{n}gram_characters" for n in (2, 3, 4)),
    *(f"duplicate_{n}gram_characters" for n in range(5, 11)),
)
(
    _CHARACTERS,
    _NEWLINES,
    _BUT_NEWLINES,
    _WORDS,
    _WORD_CHARACTERS,
    _ALPHABETIC,
    _UNSPACED,
    _UNMARKED,
    _STOP_WORDS,
    _HASHES,
    _ELLIPSES,
    _LINES,
    _BULLET_LINES,
    _ELLIPSIS_LINES,
    _MARKED_LINES,
    _SHORT_LINES,
    _DUPLICATE_LINES,
) = range(17)
_PARAGRAPHS = COUNTS.index("paragraphs")
_NGRAMS = COUNTS.index("top_2gram_characters")

# The columns of a matrix of lines; `STOP - START` bytes lie without the white space at the ends.
START, STOP, CHARACTERS, WORDS, LONGEST, SENTENCES, MARKS, OPENS_PARAGRAPH, HASH = range(9)
LINE_FIELDS = 9
# Bits of MARKS.
BULLET, ELLIPSIS, MARKED, ENDED = 1, 2, 4, 8

_SEED, _GOLDEN = 0xCBF29CE484222325, 0x9E3779B97F4A7C15  # FNV's offset; 2^64 over the golden ratio
_BYTE = 2**32 - 1  # of an edge: the offset of a byte
_NEWLINE, _HASH_SIGN, _FULL_STOP = 0x0A, 0x23, 0x2E
_BULLET_CODES = np.array([ord(bullet) for bullet in BULLETS])
_QUOTE_CODES = np.array([ord(quote) for quote in QUOTES])
# Stop words of up to four ASCII letters as one number each, the first letter highest.
_STOP_CODES = np.array([int.from_bytes(word.encode(), "big") for word in STOP_WORDS])


class Scan(NamedTuple):
    """Counts of a batch of texts and their lines.

    counts: int64 [texts, COUNTS]; lines: int64 [lines, LINE_FIELDS]; line_ends: [texts + 1].
    """

    counts: Int64s
    lines: Int64s
    line_ends: Int64s


@numba.njit(cache=True)
def _at(text: UInt8s, i: int) -> tuple[np.int64, int]:
    if text[i] < 0x80:
        return np.int64(text[i]), 1
    return _decode(text, i)


@numba.njit(cache=True)
def _before(text: UInt8s, stop: int) -> tuple[np.int64, int]:
    """Return the character that ends at `stop`, and where it starts."""
    start = stop - 1
    while text[start] & 0xC0 == 0x80:
        start -= 1
    return _at(text, start)[0], start


@numba.njit(cache=True)
def _has_letter(text: UInt8s, start: int, stop: int, classes: UInt8s) -> bool:
    while start < stop:
        code, width = _at(text, start)
        if classes[code] & LETTER:
            return True
        start += width
    return False


@numba.njit(cache=True)
def _cut(text: UInt8s, classes: UInt8s, hashes: UInt64s, edges: Int64s) -> int:
    """Write hash, start and end of every word, an edge as byte + character << 32; count words.

    Without a branch on where words end: see `pipeline/kernels.py`.
    """
    i = position = count = inside = after = 0
    state = np.uint64(_SEED)
    while i < len(text):
        code, width = _at(text, i)
        kind = classes[code]
        edge = i | position << 32
        if (kind & UNSPACED) | after:
            if kind & SPACE:
                after = 0
            elif kind & LETTER:
                begin = edges[count - 1] & _BYTE
                if after or (inside and _has_letter(text, begin, i, classes)):
                    hashes[count >> 1] = state
                    edges[count] = edges[count + 1] = edge
                    count += 2
                    state = np.uint64(_SEED)
                after = np.int64(kind & UNSPACED)
        joined = 0 if kind & SPACE else 1
        hashes[count >> 1], edges[count] = state, edge  # stands only where the next line counts it
        count += joined ^ inside
        longer = (state ^ np.uint64(code)) * np.uint64(_GOLDEN)
        state = longer if joined else np.uint64(_SEED)
        inside = joined
        i, position = i + width, position + 1
    hashes[count >> 1], edges[count] = state, i | position << 32
    return (count + inside) >> 1


@numba.njit(cache=True)
def _kinds(text: UInt8s, start: int, stop: int, classes: UInt8s) -> np.uint8:
    """Return the classes of a word up to its first alphabetic character: more change nothing."""
    found = np.uint8(0)
    while start < stop and not found & ALPHABETIC:
        code, width = _at(text, start)
        found |= classes[code]
        start += width
    return found


@numba.njit(cache=True)
def _ends_sentence(text: UInt8s, start: int, stop: int, classes: UInt8s) -> int:
    if np.uint8((text[stop - 1] | 0x20) - 0x61) < 26:
        return 0
    while stop > start:
        code, stop = _before(text, stop)
        if not classes[code] & CLOSING:
            return 1 if classes[code] & TERMINAL else 0
    return 0


@numba.njit(cache=True)
def _stop_word(text: UInt8s, start: int, stop: int) -> int:
    """Return the bit of the stop word that stands here, 0 for none."""
    if stop - start > 4:
        return 0
    packed = 0
    for i in range(start, stop):
        byte = np.int64(text[i])
        packed = packed << 8 | (byte | 0x20 if 0x41 <= byte <= 0x5A else byte)
    for n in range(len(_STOP_CODES)):
        if _STOP_CODES[n] == packed:
            return 1 << n
    return 0


@numba.njit(cache=True)
def _marks(text: UInt8s, start: int, stop: int, classes: UInt8s) -> int:
    """Return how a line begins and ends."""
    first, last = _at(text, start)[0], _before(text, stop)[0]
    marks = BULLET if (first == _BULLET_CODES).any() else 0
    dots = stop - start >= 3 and (text[stop - 3 : stop] == _FULL_STOP).all()
    if dots or last == 0x2026:
        marks |= ELLIPSIS
    if classes[last] & TERMINAL:
        marks |= MARKED
    if not dots and (classes[last] & TERMINAL or (last == _QUOTE_CODES).any()):
        marks |= ENDED
    return marks


@numba.njit(cache=True)
def _count_symbols(text: UInt8s, counts: Int64s) -> None:
    """Count characters, newlines, hash signs and ellipses."""
    characters = newlines = hashes = triples = ellipses = 0
    for i in range(len(text)):
        characters += (text[i] & 0xC0) != 0x80
        newlines += text[i] == _NEWLINE
        hashes += text[i] == _HASH_SIGN
    for i in range(len(text) - 2):
        triples += (text[i] == 0x2E) & (text[i + 1] == 0x2E) & (text[i + 2] == 0x2E)
        ellipses += (text[i] == 0xE2) & (text[i + 1] == 0x80) & (text[i + 2] == 0xA6)
    run = 0
    for i in range(len(text) if triples else 0):
        run = run + 1 if text[i] == _FULL_STOP else 0
        if run == 3:
            ellipses, run = ellipses + 1, 0
    counts[_CHARACTERS], counts[_NEWLINES] = characters, newlines
    counts[_BUT_NEWLINES] = characters - newlines
    counts[_HASHES], counts[_ELLIPSES] = hashes, ellipses


@numba.njit(cache=True)
def _breaks(text: UInt8s, start: int, stop: int) -> int:
    count = 0
    for i in range(start, stop):
        count += text[i] == _NEWLINE
    return count


@numba.njit(cache=True)
def _describe(
    text: UInt8s, classes: UInt8s, words: tuple[UInt64s, Int64s], lines: Int64s, counts: Int64s
) -> int:
    """Gather words into lines and count both; return the number of lines.

    words: hashes and edges; each word's first edge becomes its code, see `count_ngrams`.
    """
    hashes, edges = words
    line, last, ended, begin, stop_words = -1, 0, 0, 0, 0
    row = lines[0]
    for n in range(counts[_WORDS]):
        start, position = edges[2 * n] & _BYTE, edges[2 * n] >> 32
        stop, length = edges[2 * n + 1] & _BYTE, (edges[2 * n + 1] >> 32) - position
        breaks = 0
        if line < 0 or start - last > 1 or text[last] == _NEWLINE:
            breaks = _breaks(text, last, start)
        if line < 0 or breaks:
            line, ended, begin = line + 1, 0, position
            row = lines[line]
            row[START], row[WORDS], row[LONGEST], row[SENTENCES] = start, 0, 0, 1
            row[OPENS_PARAGRAPH], row[HASH] = breaks != 1 or line == 0, 0
        row[SENTENCES] += ended  # the last word of a line ends a sentence anyhow
        row[STOP], row[WORDS], row[LONGEST] = stop, row[WORDS] + 1, max(row[LONGEST], length)
        row[CHARACTERS] = position + length - begin
        hashes[n] = _mix(hashes[n])
        row[HASH] = np.int64((np.uint64(row[HASH]) + hashes[n]) * np.uint64(_GOLDEN))
        ended = _ends_sentence(text, start, stop, classes)
        stop_words |= _stop_word(text, start, stop)
        kinds = _kinds(text, start, stop, classes)
        unspaced = 1 if kinds & UNSPACED else 0
        edges[n] = length << 1 | unspaced
        counts[_WORD_CHARACTERS] += length
        counts[_ALPHABETIC] += 1 if kinds & ALPHABETIC else 0
        counts[_UNSPACED] += unspaced
        counts[_UNMARKED] += 1 if kinds & UNMARKED else 0
        last = stop
    for n in range(len(_STOP_CODES)):
        counts[_STOP_WORDS] += stop_words >> n & 1
    return line + 1


@numba.njit(cache=True)
def _count_lines(
    text: UInt8s, classes: UInt8s, lines: Int64s, scratch: tuple[UInt64s, Int64s], counts: Int64s
) -> None:
    """Finish the rows of the lines and count them; `scratch` holds keys and lengths."""
    keys, lengths = scratch
    paragraphs = 0
    for n in range(len(lines)):
        row = lines[n]
        row[MARKS] = _marks(text, row[START], row[STOP], classes)
        counts[_BULLET_LINES] += row[MARKS] & BULLET != 0
        counts[_ELLIPSIS_LINES] += row[MARKS] & ELLIPSIS != 0
        counts[_MARKED_LINES] += row[MARKS] & MARKED != 0
        counts[_SHORT_LINES] += row[CHARACTERS] <= SHORT_LINE
        keys[n], lengths[n] = _mix(np.uint64(row[HASH])), row[CHARACTERS]
    counts[_LINES] = len(lines)
    count_repeated(keys[: len(lines)], lengths, counts[_DUPLICATE_LINES : _DUPLICATE_LINES + 2])
    for n in range(len(lines)):
        if lines[n, OPENS_PARAGRAPH]:
            keys[paragraphs], lengths[paragraphs] = 0, -1
            paragraphs += 1
        state = keys[paragraphs - 1] + _mix(np.uint64(lines[n, HASH]))
        keys[paragraphs - 1] = _mix(state * np.uint64(_GOLDEN))
        lengths[paragraphs - 1] += lines[n, CHARACTERS] + 1
    counts[_PARAGRAPHS] = paragraphs
    count_repeated(keys[:paragraphs], lengths, counts[_PARAGRAPHS + 1 : _PARAGRAPHS + 3])


@numba.njit(cache=True)
def _scan(
    data: UInt8s, ends: Int64s, classes: UInt8s, ngrams: bool
) -> tuple[Int64s, Int64s, Int64s]:
    longest = newlines = 0
    for t in range(len(ends) - 1):
        longest = max(longest, ends[t + 1] - ends[t])
    for i in range(ends[0], ends[-1]):
        newlines += data[i] == _NEWLINE
    counts = np.zeros((len(ends) - 1, len(COUNTS)), np.int64)
    lines = np.empty((newlines + len(ends), LINE_FIELDS), np.int64)
    line_ends = np.zeros(len(ends), np.int64)
    hashes, edges = np.empty(longest + 2, np.uint64), np.empty(2 * longest + 2, np.int64)
    for t in range(len(ends) - 1):
        text = data[ends[t] : ends[t + 1]]
        counts[t, _WORDS] = count = _cut(text, classes, hashes, edges)
        found = _describe(text, classes, (hashes, edges), lines[line_ends[t] :], counts[t])
        if ngrams:
            count_ngrams(hashes[:count], edges, counts[t, _NGRAMS:])
        line_ends[t + 1] = line_ends[t] + found
        own = lines[line_ends[t] : line_ends[t + 1]]
        _count_lines(text, classes, own, (hashes, edges), counts[t])
        _count_symbols(text, counts[t])
        own[:, START : STOP + 1] += ends[t]
    return counts, lines[: line_ends[-1]], line_ends


def scan(data: UInt8s, ends: Int64s, *, ngrams: bool) -> Scan:
    """Count a batch of texts, the n-grams only if asked; `ends` are [texts + 1] offsets."""
    return Scan(*_scan(data, ends, class_table(), ngrams))
