"""C4's cleaning of a text line by line, on the lines that `pipeline/statistics.py` found.

Phrases are looked for only in texts that hold four bytes of one of them: a test of whole texts
that compilers turn into vectors. The letters of phrases are ASCII; their case does not matter.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from pipeline.characters import POLICIES
from pipeline.distributions import COUNT_BINS, number_bins
from pipeline.kernels import Int64s, UInt8s
from pipeline.statistics import ENDED, LONGEST, MARKS, SENTENCES, START, STOP, WORDS, Scan
from pipeline.wide import copy

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

# The columns of the counts of lines; the first five count lines taken out, in the order of rules.
LINE_COUNTS = (
    "long_word_lines",
    "unmarked_lines",
    "few_word_lines",
    "javascript_lines",
    "policy_lines",
    "lorem_lines",
    "curly_lines",
    "sentences",
)
_LONG, _UNMARKED, _FEW, _JAVASCRIPT, _POLICY, _LOREM, _CURLY, _SENTENCES = range(8)
LINE_RULES = 5
# The bins of small counts; few lines hold more, and few words are longer.
_BINS = number_bins(np.arange(256, dtype=np.float64), "count")

_PHRASES = ("javascript", "lorem ipsum", *POLICIES)
_PHRASE_BYTES = np.frombuffer("".join(_PHRASES).encode(), np.uint8)
_PHRASE_ENDS = np.cumsum([0, *map(len, _PHRASES)])
# Every phrase holds one of these; "ipsu", say, is rarer in prose than "lore".
PROBES = ("java", "ipsu", "licy", "okie", "f us")
_PROBE_BYTES = np.frombuffer("".join(PROBES).encode(), np.uint8).reshape(-1, 4)
_CASE = np.uint8(0x20)  # the bit in which an ASCII letter's cases differ
_OPENING_BRACKET, _CLOSING_BRACKET, _OPENING_BRACE = map(np.uint8, b"[]{")
_NEWLINE = 0x0A
_CITATIONS = ("[edit]", "[citation needed]")
_CITATION_BYTES = np.frombuffer("".join(_CITATIONS).encode(), np.uint8)
_CITATION_ENDS = np.cumsum([0, *map(len, _CITATIONS)])


@numba.njit(cache=True)
def _may_hold_phrase(text: UInt8s) -> bool:
    # The least difference of four bytes from a probe: a minimum is what LLVM makes vectors of.
    least = np.uint8(255)
    for n in range(len(_PROBE_BYTES)):
        probe = _PROBE_BYTES[n]
        for i in range(len(text) - 3):
            one = (np.uint8(text[i] | _CASE) ^ probe[0]) | (
                np.uint8(text[i + 1] | _CASE) ^ probe[1]
            )
            two = np.uint8(text[i + 2] | _CASE) ^ probe[2]
            least = min(least, np.uint8(one | two | (np.uint8(text[i + 3] | _CASE) ^ probe[3])))
    return bool(least == 0)


@numba.njit(cache=True)
def _holds(text: UInt8s, byte: np.uint8) -> bool:
    least = np.uint8(255)
    for i in range(len(text)):
        least = min(least, np.uint8(text[i] ^ byte))
    return bool(least == 0)


@numba.njit(cache=True, forceinline=True)
def _stands_at(text: UInt8s, i: int, phrase: UInt8s) -> bool:
    """Tell whether a phrase of small letters and spaces stands at i, in letters of any case."""
    if i + len(phrase) > len(text):
        return False
    for n in range(len(phrase)):
        byte = text[i + n]
        if byte != phrase[n] and (phrase[n] == 32 or byte != phrase[n] - 32):
            return False
    return True


@numba.njit(cache=True)
def _occurrences(line: UInt8s, first: int, last: int) -> int:
    """Count phrases of a range of numbers in a line, each without overlaps."""
    count = 0
    for n in range(first, last):
        phrase = _PHRASE_BYTES[_PHRASE_ENDS[n] : _PHRASE_ENDS[n + 1]]
        i = 0
        while i < len(line):
            if line[i] | _CASE == phrase[0] and _stands_at(line, i, phrase):
                count += 1
                i += len(phrase)
            else:
                i += 1
    return count


@numba.njit(cache=True)
def _look(seen: Int64s, rule: int, value: int, limit: float) -> int:
    """Count a value that a rule looks at by its bin, unless the rule is off; return the value."""
    if np.isfinite(limit):
        number = 0
        if value < len(_BINS):
            number = _BINS[value]
        else:
            while number < COUNT_BINS - 1 and (value * value) >> number:
                number += 1
        seen[rule, number] += 1
    return value


@numba.njit(cache=True)
def _reason(line: UInt8s, row: Int64s, limits: Floats, phrases: bool, seen: Int64s) -> int:
    """Return the first rule for which a line goes, or that of no rule."""
    if _look(seen, _LONG, row[LONGEST], limits[_LONG]) > limits[_LONG]:
        return _LONG
    is_ended = 1 if row[MARKS] & ENDED != 0 else 0
    if _look(seen, _UNMARKED, is_ended, limits[_UNMARKED]) < limits[_UNMARKED]:
        return _UNMARKED
    if _look(seen, _FEW, row[WORDS], limits[_FEW]) < limits[_FEW]:
        return _FEW
    found = _occurrences(line, 0, 1) if phrases else 0
    if _look(seen, _JAVASCRIPT, found, limits[_JAVASCRIPT]) > limits[_JAVASCRIPT]:
        return _JAVASCRIPT
    found = _occurrences(line, 2, len(_PHRASE_ENDS) - 1) if phrases else 0
    if _look(seen, _POLICY, found, limits[_POLICY]) > limits[_POLICY]:
        return _POLICY
    return _LOREM


@numba.njit(cache=True)
def _choose(
    flat: tuple[UInt8s, Int64s], lines: Int64s, line_ends: Int64s, rows: Int64s, limits: Floats
) -> tuple[Int64s, Bools, Int64s]:
    data, ends = flat
    counts = np.zeros((len(rows), len(LINE_COUNTS)), np.int64)
    kept = np.zeros(len(lines), np.bool_)
    seen = np.zeros((LINE_RULES, COUNT_BINS), np.int64)
    for at in range(len(rows)):
        t = rows[at]
        text = data[ends[t] : ends[t + 1]]
        some, braces = _may_hold_phrase(text), _holds(text, _OPENING_BRACE)
        for n in range(line_ends[t], line_ends[t + 1]):
            line = data[lines[n, START] : lines[n, STOP]]
            phrases = some and _may_hold_phrase(line)
            reason = _reason(line, lines[n], limits[at], phrases, seen)
            if reason > _FEW and phrases:
                counts[at, _LOREM] += _occurrences(line, 1, 2) > 0
            if reason > _JAVASCRIPT and braces:
                counts[at, _CURLY] += _holds(line, _OPENING_BRACE)
            kept[n] = reason == _LOREM
            if kept[n]:
                counts[at, _SENTENCES] += lines[n, SENTENCES]
            else:
                counts[at, reason] += 1
    return counts, kept, seen


@numba.njit(cache=True)
def _join(
    data: UInt8s, chosen: Int64s, lines: Int64s, line_ends: Int64s, kept: Bools
) -> tuple[UInt8s, Int64s]:
    most = len(lines)
    for line in range(len(lines)):
        most += lines[line, STOP] - lines[line, START]
    joined = np.empty(most, np.uint8)
    ends = np.zeros(len(chosen) + 1, np.int64)
    size = 0
    for n in range(len(chosen)):
        for line in range(line_ends[chosen[n]], line_ends[chosen[n] + 1]):
            if not kept[line]:
                continue
            if size > ends[n]:
                joined[size] = _NEWLINE
                size += 1
            source = data[lines[line, START] : lines[line, STOP]]
            copy(source, joined[size:])
            size += len(source)
        ends[n + 1] = size
    return joined[:size], ends


@numba.njit(cache=True)
def _citation(text: UInt8s, i: int) -> int:
    """Return the length of the citation whose bracket opens at i, or 0."""
    stop = i + 1
    while stop < len(text) and 0x30 <= text[stop] <= 0x39:
        stop += 1
    if stop < len(text) and text[stop] == _CLOSING_BRACKET:
        return stop + 1 - i
    for n in range(len(_CITATION_ENDS) - 1):
        form = _CITATION_BYTES[_CITATION_ENDS[n] : _CITATION_ENDS[n + 1]]
        if i + len(form) <= len(text):
            same = 0
            for k in range(len(form)):
                same += text[i + k] == form[k]
            if same == len(form):
                return len(form)
    return 0


@numba.njit(cache=True)
def _find_citations(data: UInt8s, ends: Int64s) -> Bools:
    found = np.zeros(len(ends) - 1, np.bool_)
    for t in range(len(ends) - 1):
        text = data[ends[t] : ends[t + 1]]
        if _holds(text, _OPENING_BRACKET):
            i = 0
            while i < len(text) and not (text[i] == _OPENING_BRACKET and _citation(text, i)):
                i += 1
            found[t] = i < len(text)
    return found


@numba.njit(cache=True)
def _cut_citations(data: UInt8s, ends: Int64s, rows: Int64s) -> tuple[UInt8s, Int64s]:
    longest = 0
    for t in rows:
        longest += ends[t + 1] - ends[t]
    cut, cut_ends = np.empty(longest, np.uint8), np.zeros(len(rows) + 1, np.int64)
    size = 0
    for n in range(len(rows)):
        text = data[ends[rows[n]] : ends[rows[n] + 1]]
        i = 0
        while i < len(text):
            skipped = _citation(text, i) if text[i] == _OPENING_BRACKET else 0
            cut[size] = text[i]
            size += 0 if skipped else 1
            i += max(skipped, 1)
        cut_ends[n + 1] = size
    return cut[:size], cut_ends


class Chosen(NamedTuple):
    """What C4 says of some texts: counts, int64 [texts, LINE_COUNTS]; kept, bool [lines].

    seen: how many of the lines that came to each rule on lines had values of each bin, int64
    [LINE_RULES, COUNT_BINS]; a line comes to a rule where those before it let it stay.
    """

    counts: Int64s
    kept: Bools
    seen: Int64s


def choose(data: UInt8s, ends: Int64s, scanned: Scan, rows: Int64s, limits: Floats) -> Chosen:
    """Choose the lines that stay of the texts of these rows.

    limits: thresholds of the five rules on lines, [rows, 5].
    """
    return Chosen(*_choose((data, ends), scanned.lines, scanned.line_ends, rows, limits))


def join(data: UInt8s, scanned: Scan, kept: Bools, rows: Int64s) -> tuple[UInt8s, Int64s]:
    """Return the texts of these rows with the lines that stay, as data and offsets."""
    joined, ends = _join(data, rows, scanned.lines, scanned.line_ends, kept)
    joined.setflags(write=False)  # as Arrow's buffers are: to compile kernels once
    ends.setflags(write=False)
    return joined, ends


def find_citations(data: UInt8s, ends: Int64s) -> Bools:
    """Tell which texts hold what Wikipedia leaves: `[12]`, `[edit]`, `[citation needed]`."""
    return np.asarray(_find_citations(data, ends), np.bool_)


def cut_citations(data: UInt8s, ends: Int64s, rows: Int64s) -> tuple[UInt8s, Int64s]:
    """Return the texts of these rows without their citations, as data and offsets."""
    cut, cut_ends = _cut_citations(data, ends, rows)
    cut.setflags(write=False)
    cut_ends.setflags(write=False)
    return cut, cut_ends
