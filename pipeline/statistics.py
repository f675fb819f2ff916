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
from pipeline.kernels import Int64s, UInt8s, UInt64s, _mix, decode
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
# Stop words have up to four ASCII letters, so they are 32-bit numbers; this factor, found by trying
# odd ones, sends them to different slots of 16. Of a longer word no byte is kept.
_STOP_FACTOR = np.uint32(2334851559)
_STOP_SLOTS = np.zeros(16, np.uint32)
for _word in STOP_WORDS:
    _packed = int.from_bytes(_word.encode(), "little")
    _STOP_SLOTS[(_packed * int(_STOP_FACTOR) & 0xFFFFFFFF) >> 28] = _packed
_KEPT = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF, 0xFFFFFFFF, 0], np.uint32)


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
    return decode(text, i)


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
    kind = classes[text[stop - 1]]
    if text[stop - 1] < 0x80 and not kind & CLOSING:
        return 1 if kind & TERMINAL else 0
    while stop > start:
        code, stop = _before(text, stop)
        if not classes[code] & CLOSING:
            return 1 if classes[code] & TERMINAL else 0
    return 0


@numba.njit(cache=True)
def _stop_word(text: UInt8s, start: int, stop: int) -> int:
    """Return the bit of the stop word that stands here, 0 for none; without a branch."""
    end = len(text) - 1
    packed = np.uint32(text[start]) | np.uint32(text[min(start + 1, end)]) << np.uint32(8)
    packed |= np.uint32(text[min(start + 2, end)]) << np.uint32(16)
    packed |= np.uint32(text[min(start + 3, end)]) << np.uint32(24)
    packed = (packed | np.uint32(0x20202020)) & _KEPT[min(stop - start, 5)]
    slot = np.uint32(packed * _STOP_FACTOR) >> np.uint32(28)
    return np.int64(_STOP_SLOTS[slot] == packed) << np.int64(slot)


@numba.njit(cache=True)
def _is_one_of(code: int, codes: Int64s) -> bool:
    found = False
    for n in range(len(codes)):
        found |= codes[n] == code
    return found


@numba.njit(cache=True)
def _marks(text: UInt8s, start: int, stop: int, classes: UInt8s) -> int:
    """Return how a line begins and ends."""
    first, last = _at(text, start)[0], _before(text, stop)[0]
    marks = BULLET if _is_one_of(first, _BULLET_CODES) else 0
    dots = stop - start >= 3 and text[stop - 1] == _FULL_STOP
    dots = dots and text[stop - 2] == _FULL_STOP and text[stop - 3] == _FULL_STOP
    if dots or last == 0x2026:
        marks |= ELLIPSIS
    if classes[last] & TERMINAL:
        marks |= MARKED
    if not dots and (classes[last] & TERMINAL or _is_one_of(last, _QUOTE_CODES)):
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
def _close(row: Int64s, edge: int, words: int, longest: int, sentences: int, state: int) -> None:
    """Write what is known at the end of a line; CHARACTERS held the place of its first one."""
    row[STOP], row[CHARACTERS] = edge & _BYTE, (edge >> 32) - row[CHARACTERS]
    row[WORDS], row[LONGEST], row[SENTENCES], row[HASH] = words, longest, sentences, state


@numba.njit(cache=True)
def _describe(
    text: UInt8s, classes: UInt8s, words: tuple[UInt64s, Int64s], lines: Int64s, counts: Int64s
) -> int:
    """Gather words into lines and count both; return the number of lines.

    words: hashes and edges; each word's first edge becomes its code, see `count_ngrams`.
    """
    hashes, edges = words
    edge = ended = first = line = longest = sentences = 0  # edge: where the word before ended
    alphabetic = unspaced = unmarked = characters = stop_words = 0
    state = np.uint64(0)
    for n in range(counts[_WORDS]):
        start, before = edges[2 * n] & _BYTE, edge & _BYTE
        if n == 0 or start - before > 1 or text[before] == _NEWLINE:
            breaks = 2 if n == 0 else _breaks(text, before, start)
            if n and breaks:
                _close(lines[line], edge, n - first, longest, sentences, np.int64(state))
                line += 1
            if breaks:
                lines[line, START], lines[line, CHARACTERS] = start, edges[2 * n] >> 32
                lines[line, OPENS_PARAGRAPH] = breaks > 1
                first, longest, sentences, ended, state = n, 0, 1, 0, np.uint64(0)
        edge = edges[2 * n + 1]
        length = (edge >> 32) - (edges[2 * n] >> 32)
        sentences += ended  # the last word of a line ends a sentence anyhow
        ended = _ends_sentence(text, start, edge & _BYTE, classes)
        longest = max(longest, length)
        characters += length
        hashes[n] = _mix(hashes[n])
        state = (state + hashes[n]) * np.uint64(_GOLDEN)
        stop_words |= _stop_word(text, start, edge & _BYTE)
        kinds = _kinds(text, start, edge & _BYTE, classes)
        alphabetic += 1 if kinds & ALPHABETIC else 0
        unspaced += 1 if kinds & UNSPACED else 0
        unmarked += 1 if kinds & UNMARKED else 0
        edges[n] = length << 1 | (1 if kinds & UNSPACED else 0)
    counts[_WORD_CHARACTERS : _UNMARKED + 1] = characters, alphabetic, unspaced, unmarked
    for slot in range(len(_STOP_SLOTS)):
        counts[_STOP_WORDS] += stop_words >> slot & 1
    if not counts[_WORDS]:
        return 0
    _close(lines[line], edge, counts[_WORDS] - first, longest, sentences, np.int64(state))
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
