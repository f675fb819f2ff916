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
import numpy.typing as npt

from pipeline.characters import (
    ALPHABETIC,
    BULLETS,
    QUOTES,
    SHORT_LINE,
    TERMINAL,
    UNMARKED,
    UNSPACED,
    class_table,
)
from pipeline.kernels import GOLDEN, Int64s, UInt8s, UInt64s, character_at, mix
from pipeline.repetition import count_ngrams, count_repeated
from pipeline.words import (
    BYTE,
    STOP_SLOTS,
    character_before,
    classes_in,
    cut_words,
    ends_sentence,
    stop_word_bit,
)

Bools = npt.NDArray[np.bool_]

# The columns of a matrix of counts.
COUNTS = (
    "characters",
    "newlines",
    "all_lines",
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
    _ALL_LINES,
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
) = range(18)
_PARAGRAPHS = COUNTS.index("paragraphs")
_NGRAMS = COUNTS.index("top_2gram_characters")

# The columns of a matrix of lines; `STOP - START` bytes lie without the white space at the ends,
# and so do CHARACTERS; those of the white space that a line begins with are INDENT.
START, STOP, CHARACTERS, WORDS, LONGEST, SENTENCES, MARKS, OPENS_PARAGRAPH, HASH = range(9)
UNSPACED_WORDS, UNMARKED_WORDS, INDENT, INDENT_HASH, LINE_FIELDS = range(9, 14)
# Bits of MARKS.
BULLET, ELLIPSIS, MARKED, ENDED = 1, 2, 4, 8

_BLOCK = 224  # bytes: less than 256, and whole vectors of 32
_MOST_BYTES = 2**31 - 1  # offsets of bytes and characters share a signed 64-bit number
_NEWLINE, _SPACE_SIGN, _HASH_SIGN, _FULL_STOP = 0x0A, 0x20, 0x23, 0x2E
_BULLET_CODES = np.array([ord(bullet) for bullet in BULLETS])
_QUOTE_CODES = np.array([ord(quote) for quote in QUOTES])


class Scan(NamedTuple):
    """Counts of a batch of texts and their lines.

    counts: int64 [texts, COUNTS]; lines: int64 [lines, LINE_FIELDS]; line_ends: [texts + 1].
    """

    counts: Int64s
    lines: Int64s
    line_ends: Int64s


@numba.njit(cache=True)
def _is_one_of(code: int, codes: Int64s) -> bool:
    found = 0
    for n in range(len(codes)):
        found |= codes[n] == code
    return bool(found)


@numba.njit(cache=True)
def _marks(text: UInt8s, start: int, stop: int, classes: UInt8s) -> int:
    """Return how a line begins and ends."""
    first, last = character_at(text, start)[0], character_before(text, stop)[0]
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
def _symbols_in(block: UInt8s) -> tuple[int, int, int, int, int]:
    """Count in at most 255 bytes: sums of one byte each are what LLVM makes vectors of.

    Of dots and of ellipses the first two bytes of the next block are there too, but not counted.
    """
    tails = newlines = hashes = triples = ellipses = np.uint8(0)
    for i in range(len(block) - 2):
        one, two, three = block[i], block[i + 1], block[i + 2]
        tails = np.uint8(tails + np.uint8((one & 0xC0) == 0x80))
        newlines = np.uint8(newlines + np.uint8(one == _NEWLINE))
        hashes = np.uint8(hashes + np.uint8(one == _HASH_SIGN))
        dots = (one == 0x2E) & (two == 0x2E) & (three == 0x2E)
        triples = np.uint8(triples + np.uint8(dots))
        dots = (one == 0xE2) & (two == 0x80) & (three == 0xA6)
        ellipses = np.uint8(ellipses + np.uint8(dots))
    return int(tails), int(newlines), int(hashes), int(triples), int(ellipses)


@numba.njit(cache=True)
def _count_symbols(text: UInt8s, counts: Int64s) -> None:
    """Count characters, newlines, hash signs and ellipses."""
    characters, newlines, hashes, triples, ellipses = len(text), 0, 0, 0, 0
    for start in range(0, len(text) - 2, _BLOCK):
        found = _symbols_in(text[start : min(start + _BLOCK + 2, len(text))])
        characters, newlines, hashes = characters - found[0], newlines + found[1], hashes + found[2]
        triples, ellipses = triples + found[3], ellipses + found[4]
    for i in range(max(0, len(text) - 2), len(text)):
        characters -= (text[i] & 0xC0) == 0x80
        newlines += text[i] == _NEWLINE
        hashes += text[i] == _HASH_SIGN
    run = 0
    for i in range(len(text) if triples else 0):
        run = run + 1 if text[i] == _FULL_STOP else 0
        if run == 3:
            ellipses, run = ellipses + 1, 0
    counts[_CHARACTERS], counts[_NEWLINES] = characters, newlines
    counts[_ALL_LINES], counts[_BUT_NEWLINES] = newlines + 1, characters - newlines
    counts[_HASHES], counts[_ELLIPSES] = hashes, ellipses


@numba.njit(cache=True)
def _breaks(text: UInt8s, start: int, stop: int) -> int:
    count = 0
    for i in range(start, stop):
        count += text[i] == _NEWLINE
    return count


@numba.njit(cache=True)
def _hash_bytes(text: UInt8s, start: int, stop: int) -> np.uint64:
    state = np.uint64(1)
    for i in range(start, stop):
        state = (state + np.uint64(text[i])) * np.uint64(GOLDEN)
    return state


@numba.njit(cache=True)
def _indent(text: UInt8s, start: int, row: Int64s) -> None:
    """Describe the white space between the newline before a line, or the text's start, and it."""
    row[INDENT] = row[INDENT_HASH] = 0
    i = start
    while i > 0 and text[i - 1] != _NEWLINE:
        i -= 1
        row[INDENT] += (text[i] & 0xC0) != 0x80
    if i < start:
        row[INDENT_HASH] = np.int64(mix(_hash_bytes(text, i, start)))


@numba.njit(cache=True)
def _open(row: Int64s, edge: int, breaks: int, so_far: tuple[int, int, int]) -> None:
    """Begin a line: its counts hold what came before it until `_close`."""
    row[START], row[CHARACTERS], row[OPENS_PARAGRAPH] = edge & BYTE, edge >> 32, breaks > 1
    row[WORDS], row[UNSPACED_WORDS], row[UNMARKED_WORDS] = so_far


@numba.njit(cache=True)
def _close(
    row: Int64s,
    edge: int,
    so_far: tuple[int, int, int],
    longest: int,
    sentences: int,
    state: np.int64,
) -> None:
    row[STOP], row[CHARACTERS] = edge & BYTE, (edge >> 32) - row[CHARACTERS]
    row[WORDS] = so_far[0] - row[WORDS]
    row[UNSPACED_WORDS] = so_far[1] - row[UNSPACED_WORDS]
    row[UNMARKED_WORDS] = so_far[2] - row[UNMARKED_WORDS]
    row[LONGEST], row[SENTENCES], row[HASH] = longest, sentences, state


@numba.njit(cache=True)
def _describe(
    text: UInt8s, classes: UInt8s, words: tuple[UInt64s, Int64s], lines: Int64s, counts: Int64s
) -> int:
    """Gather words into lines and count both; return the number of lines.

    words: hashes and edges; each word's first edge becomes its code, see `count_ngrams`.
    """
    hashes, edges = words
    edge = ended = line = longest = sentences = 0  # edge: where the word before ended
    alphabetic = unspaced = unmarked = characters = stop_words = 0
    state = np.uint64(0)
    for n in range(counts[_WORDS]):
        start, before = edges[2 * n] & BYTE, edge & BYTE
        if n == 0 or start - before != 1 or text[before] != _SPACE_SIGN:
            breaks = 2 if n == 0 else _breaks(text, before, start)
            so_far = (n, unspaced, unmarked)
            if n and breaks:
                _close(lines[line], edge, so_far, longest, sentences, np.int64(state))
                line += 1
            if breaks:
                _open(lines[line], edges[2 * n], breaks, so_far)
                _indent(text, start, lines[line])
                longest, sentences, ended, state = 0, 1, 0, np.uint64(0)
            else:
                # Words that follow each other by one space are the same line without it.
                state = (state + _hash_bytes(text, before, start)) * np.uint64(GOLDEN)
        edge = edges[2 * n + 1]
        length = (edge >> 32) - (edges[2 * n] >> 32)
        sentences += ended  # the last word of a line ends a sentence anyhow
        ended = ends_sentence(text, start, edge & BYTE, classes)
        longest = max(longest, length)
        characters += length
        hashes[n] = mix(hashes[n])
        state = (state + hashes[n]) * np.uint64(GOLDEN)
        stop_words |= stop_word_bit(text, start, edge & BYTE)
        kinds = classes_in(text, start, edge & BYTE, classes)
        alphabetic += 1 if kinds & ALPHABETIC else 0
        unspaced += 1 if kinds & UNSPACED else 0
        unmarked += 1 if kinds & UNMARKED else 0
        edges[n] = length << 1 | (1 if kinds & UNSPACED else 0)
    counts[_WORD_CHARACTERS], counts[_ALPHABETIC] = characters, alphabetic
    counts[_UNSPACED], counts[_UNMARKED] = unspaced, unmarked
    for slot in range(len(STOP_SLOTS)):
        counts[_STOP_WORDS] += stop_words >> slot & 1
    if not counts[_WORDS]:
        return 0
    so_far = (counts[_WORDS], unspaced, unmarked)
    _close(lines[line], edge, so_far, longest, sentences, np.int64(state))
    return line + 1


@numba.njit(cache=True, forceinline=True)
def _key(row: Int64s, indented: bool) -> np.uint64:
    """Return what only the same lines have in common, the white space before them included."""
    return mix(np.uint64(row[HASH]) ^ (np.uint64(row[INDENT_HASH]) if indented else np.uint64(0)))


@numba.njit(cache=True)
def count_lines(
    lines: Int64s, indented: bool, keys: UInt64s, lengths: Int64s, counts: Int64s
) -> None:
    """Count the lines of a text, with the white space before them or without it.

    keys and lengths are scratch of one item a line.
    """
    paragraphs = 0
    for n in range(len(lines)):
        row = lines[n]
        counts[_BULLET_LINES] += row[MARKS] & BULLET != 0
        counts[_ELLIPSIS_LINES] += row[MARKS] & ELLIPSIS != 0
        counts[_MARKED_LINES] += row[MARKS] & MARKED != 0
        keys[n], lengths[n] = _key(row, indented), row[CHARACTERS] + indented * row[INDENT]
        counts[_SHORT_LINES] += lengths[n] <= SHORT_LINE
    counts[_LINES] = len(lines)
    count_repeated(keys[: len(lines)], lengths, counts[_DUPLICATE_LINES : _DUPLICATE_LINES + 2])
    for n in range(len(lines)):
        if lines[n, OPENS_PARAGRAPH]:
            keys[paragraphs], lengths[paragraphs] = 0, -1
            paragraphs += 1
        state = keys[paragraphs - 1] + _key(lines[n], indented)
        keys[paragraphs - 1] = mix(state * np.uint64(GOLDEN))
        lengths[paragraphs - 1] += lines[n, CHARACTERS] + indented * lines[n, INDENT] + 1
    counts[_PARAGRAPHS] = paragraphs
    count_repeated(keys[:paragraphs], lengths, counts[_PARAGRAPHS + 1 : _PARAGRAPHS + 3])


@numba.njit(cache=True)
def _scan(
    data: UInt8s, ends: Int64s, classes: UInt8s, ngrams: bool
) -> tuple[Int64s, Int64s, Int64s]:
    longest = newlines = 0
    for t in range(len(ends) - 1):
        longest = max(longest, ends[t + 1] - ends[t])
    counts = np.zeros((len(ends) - 1, len(COUNTS)), np.int64)
    for t in range(len(ends) - 1):
        _count_symbols(data[ends[t] : ends[t + 1]], counts[t])
        newlines += counts[t, _NEWLINES]
    lines = np.empty((newlines + len(ends), LINE_FIELDS), np.int64)
    line_ends = np.zeros(len(ends), np.int64)
    hashes, edges = np.empty(longest + 2, np.uint64), np.empty(2 * longest + 2, np.int64)
    for t in range(len(ends) - 1):
        text = data[ends[t] : ends[t + 1]]
        counts[t, _WORDS] = count = cut_words(text, classes, hashes, edges)
        found = _describe(text, classes, (hashes, edges), lines[line_ends[t] :], counts[t])
        if ngrams:
            count_ngrams(hashes[:count], edges, counts[t, _NGRAMS:])
        line_ends[t + 1] = line_ends[t] + found
        own = lines[line_ends[t] : line_ends[t + 1]]
        for n in range(found):
            own[n, MARKS] = _marks(text, own[n, START], own[n, STOP], classes)
            own[n, START] += ends[t]
            own[n, STOP] += ends[t]
        count_lines(own, True, hashes, edges, counts[t])
    return counts, lines[: line_ends[-1]], line_ends


@numba.njit(cache=True)
def _recount(lines: Int64s, line_ends: Int64s, kept: Bools, rows: Int64s) -> Int64s:
    counts = np.zeros((len(rows), len(COUNTS)), np.int64)
    own = np.empty((len(lines), LINE_FIELDS), np.int64)
    keys, lengths = np.empty(len(lines), np.uint64), np.empty(len(lines), np.int64)
    for n in range(len(rows)):
        found = 0
        for line in range(line_ends[rows[n]], line_ends[rows[n] + 1]):
            if kept[line]:
                for field in range(LINE_FIELDS):
                    own[found, field] = lines[line, field]
                own[found, OPENS_PARAGRAPH] = found == 0
                found += 1
        count_lines(own[:found], False, keys, lengths, counts[n])
        counts[n, _NEWLINES] = max(found - 1, 0)
        counts[n, _ALL_LINES] = counts[n, _NEWLINES] + 1
        for line in own[:found]:
            counts[n, _BUT_NEWLINES] += line[CHARACTERS]
            counts[n, _WORDS] += line[WORDS]
            counts[n, _UNSPACED] += line[UNSPACED_WORDS]
            counts[n, _UNMARKED] += line[UNMARKED_WORDS]
        counts[n, _CHARACTERS] = counts[n, _BUT_NEWLINES] + counts[n, _NEWLINES]
    return counts


def recount(scanned: Scan, kept: Bools, rows: Int64s) -> Scan:
    """Count some texts of a scan again with a part of their lines, all that FineWeb asks of them.

    It reads no text. Counts of letters, stop words, symbols and n-grams are left at zero, and
    there are no lines.
    """
    counts = _recount(scanned.lines, scanned.line_ends, kept, rows)
    return Scan(counts, scanned.lines[:0], np.zeros(len(rows) + 1, np.int64))


def scan(data: UInt8s, ends: Int64s, *, ngrams: bool) -> Scan:
    """Count a batch of texts, the n-grams only if asked; `ends` are [texts + 1] offsets."""
    longest = int(np.diff(ends).max(initial=0))
    if longest > _MOST_BYTES:
        raise ValueError(f"a text of {longest} bytes is longer than rules can count, 2^31 - 1")
    return Scan(*_scan(data, ends, class_table(), ngrams))
