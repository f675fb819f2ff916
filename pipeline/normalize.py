"""Text as a corpus keeps it: one form of newline, of accents and of blank space; mojibake undone.

What is done, in order: text decoded with the wrong encoding is repaired; whatever ends a line is a
newline; control characters (all but the tab) and byte-order marks go; characters are composed
(NFC); white space at the ends of lines goes; of several blank lines one stays; the whole is
stripped. Indentation, tabs, spaces inside lines, no-break and zero-width spaces and soft hyphens
stay, for they are content of code, of verse and of many languages. What is lost: Markdown's hard
line break of two spaces, and how many blank lines stood between sections.

`normalize_text` is the readable reference. `normalize_batch` gives exactly the same over Arrow
buffers: a compiled loop writes every document that needs newlines and blank space only, and leaves
the few that need more to Python: a control character, a character that may compose, a pair of
characters as mojibake has them. Repair is ftfy's `fix_encoding` (Speer 2019), of lines with such a
pair alone: its own detector is some fifty times slower than the search for pairs.
"""

import functools
import re
import unicodedata

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ftfy import fix_encoding

from pipeline.code_points import CODE_POINTS, assigned
from pipeline.kernels import decode
from pipeline.wide import copy, printed_end

# Raised by hand when the normalized text changes.
VERSION = 1

UInt8s = npt.NDArray[np.uint8]
UInt32s = npt.NDArray[np.uint32]
Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# What `str.splitlines` takes for the end of a line: form feeds, say, part words too.
_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_NEWLINES = re.compile(f"\r\n?|[{_LINE_ENDS[2:]}]")
# Every control character but tab and newline, and the byte-order mark.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_BLANK_LINES = re.compile("\n{3,}")

# What UTF-8 is read as by mistake: families of the encodings that ftfy knows how to undo.
_FAMILIES = (
    ("latin-1", "cp1252", "cp1254"),
    ("cp1250", "iso-8859-2"),
    ("cp1251",),
    ("cp1253",),
    ("cp1257",),
    ("mac-roman",),
    ("cp437",),
)
# First bytes of UTF-8: of two bytes, and of three or four, which two more must follow.
_PAIR_LEADS, _TRIPLE_LEADS = bytes(range(0xC2, 0xE0)), bytes(range(0xE0, 0xF5))
_TAILS = bytes(range(0x80, 0xC0))

# A character's class, one uint32: bits 0-7 its place among combining marks, bits 8-9 its kind, then
# one bit a family each for the first of a pair, for the first of a triple and for what follows.
_UNSURE = 255  # combining class that no character has: NFC may change it or what stands before
_INK, _SPACE, _NEWLINE, _DROPPED = 0, 1, 2, 3
_KIND, _PAIR, _TRIPLE, _TAIL = 8, 10, 17, 24
_FAMILY_BITS = (1 << len(_FAMILIES)) - 1


def normalize_text(text: str, fix_mojibake: bool) -> str:
    """Return the text as it is kept; what is kept stays as it is when normalized again."""
    if not fix_mojibake:
        return _tidy(text)
    # Control characters are evidence of mojibake, so the first repair comes before they go. What
    # they stood between may then read as mojibake too, hence the loop: every repair that changes a
    # tidy text makes it shorter or takes a pair from it, so it ends.
    text = _tidy(_repair(text))
    while (repaired := _repair(text)) != text:
        text = _tidy(repaired)
    return text


def _tidy(text: str) -> str:
    text = _CONTROLS.sub("", _NEWLINES.sub("\n", text))
    text = unicodedata.normalize("NFC", _PILE.sub(_sort_pile, text))
    text = "\n".join([line.rstrip() for line in text.split("\n")])
    return _BLANK_LINES.sub("\n\n", text).strip()


# `unicodedata` sorts combining marks in quadratic time: 0.4 million of them on one letter take it
# minutes. Longer than any language's: UAX #15's stream-safe format allows 30. No mark is a word
# character, which the expression tells much faster than whether one is a mark.
_PILE = re.compile(r"[^\w\s\x00-\u02ff][^\w\s\x00-\u02ff]{30,}")


@functools.cache
def _marks() -> re.Pattern[str]:
    # Three Tibetan vowels are no marks themselves but fall into marks.
    marks = [each for each in assigned() if unicodedata.combining(each)]
    return re.compile(f"[{''.join(marks)}\u0f73\u0f75\u0f81]+")


def _sort_pile(pile: re.Match[str]) -> str:
    return _marks().sub(_sort_marks, pile[0])


def _sort_marks(pile: re.Match[str]) -> str:
    # Which is canonically equivalent, so NFC makes the same of both.
    parts = [mark for joined in pile[0] for mark in unicodedata.normalize("NFD", joined)]
    return "".join(sorted(parts, key=unicodedata.combining))


def _repair(text: str) -> str:
    if not _suspect().search(text):
        return text
    # NEL (U+0085) ends no line here: it is a byte of mojibake far more often than a newline.
    lines = re.split("([\n\r\x0b\x0c\x1c-\x1e\u2028\u2029])", text)
    return "".join(_repair_line(line) if _suspect().search(line) else line for line in lines)


def _repair_line(line: str) -> str:
    repaired = fix_encoding(line)
    # Half a surrogate pair in the broken text would come out as what no UTF-8 holds.
    return line if _SURROGATES.search(repaired) else repaired


_SURROGATES = re.compile("[\ud800-\udfff]")


def _read_as(sequence: bytes, family: tuple[str, ...]) -> str:
    """Return the characters that these bytes become in any encoding of a family."""
    found = {
        character
        for encoding in family
        for byte in sequence
        if (character := bytes([byte]).decode(encoding, "ignore"))
    }
    return "".join(sorted(found))


@functools.cache
def _families() -> tuple[tuple[str, str, str], ...]:
    """Return the firsts of pairs, the firsts of triples and the followers of every family."""
    return tuple(
        (
            _read_as(_PAIR_LEADS, family),
            _read_as(_TRIPLE_LEADS, family),
            # A no-break space is often made a plain one, and lost bytes are U+FFFD.
            _read_as(_TAILS, family) + "\ufffd",
        )
        for family in _FAMILIES
    )


@functools.cache
def _suspect() -> re.Pattern[str]:
    # A control character of Latin-1 stands for a quote of Windows-1252 where nothing else is wrong.
    # One set of every first character comes before the alternatives, for `re` looks for that fast.
    first = {*map(chr, range(0x80, 0xA0)), *"ÂÃ"}
    either = ["(?<=[\x80-\x9f])", "(?<=[ÂÃ]) "]
    for pair, triple, tail in _families():
        first |= {*pair, *triple}
        follower = f"[{re.escape(tail)}]"
        either.append(f"(?<=[{re.escape(pair)}]){follower}")
        either.append(f"(?<=[{re.escape(triple)}]){follower}{{2}}")
    return re.compile(f"[{re.escape(''.join(sorted(first)))}](?:{'|'.join(either)})")


def normalize_batch(
    texts: pa.LargeStringArray | list[str], fix_mojibake: bool
) -> pa.LargeStringArray:
    """Return `normalize_text` of every text; the texts are valid UTF-8 and none is null."""
    if isinstance(texts, list):
        texts = pa.array(texts, pa.large_string())
    _, offsets, data = texts.buffers()
    if not len(texts):
        return pa.array([], pa.large_string())
    ends = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if ends[0] == ends[-1]:
        return pa.array([""] * len(texts), pa.large_string())
    written, kept, hard = _tidy_all(
        np.frombuffer(data, np.uint8), ends, _classes(), np.uint32(fix_mojibake)
    )
    buffers = [None, pa.py_buffer(kept), pa.py_buffer(written)]
    tidied = pa.Array.from_buffers(pa.large_string(), len(texts), buffers)
    if not hard.any():
        return tidied
    mask = pa.array(hard)
    rest = [normalize_text(text, fix_mojibake) for text in texts.filter(mask).to_pylist()]
    return pc.replace_with_mask(tidied, mask, pa.array(rest, pa.large_string()))


@functools.cache
def _classes() -> UInt32s:
    """Return the class of every code point."""
    classes = np.zeros(CODE_POINTS, np.uint32)
    composing = _composing()
    for character in assigned():
        code, marks = ord(character), unicodedata.combining(character)
        if marks or code in composing or unicodedata.decomposition(character):
            changed = unicodedata.normalize("NFC", character) != character
            classes[code] = _UNSURE if changed or code in composing else marks
    spaces = [code for code in range(0x3001) if chr(code).isspace()]
    classes[spaces] |= _SPACE << _KIND
    controls = [*range(0x20), *range(0x7F, 0xA0), 0xFEFF]
    for codes, kind in ((controls, _DROPPED), ([9], _SPACE), (map(ord, _LINE_ENDS), _NEWLINE)):
        for code in codes:
            classes[code] = classes[code] & _UNSURE | kind << _KIND
    for bit, sets in enumerate(_families()):
        for shift, characters in zip((_PAIR, _TRIPLE, _TAIL), sets, strict=True):
            classes[[ord(character) for character in characters]] |= np.uint32(1 << shift + bit)
    return classes


def _composing() -> set[int]:
    """Return what may compose with what stands before it: Unicode's NFC_Quick_Check=Maybe."""
    found = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # vowels and finals of Hangul
    for character in assigned():
        parts = unicodedata.decomposition(character).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(int(parts[1], 16))
    return found


@numba.njit(cache=True)
def _tidy_all(
    data: UInt8s, ends: Int64s, classes: UInt32s, repairs: np.uint32
) -> tuple[UInt8s, Int64s, Bools]:
    """Return the tidy texts one after another, their offsets and which are left to Python."""
    out = np.empty(ends[-1] - ends[0], np.uint8)
    offsets = np.zeros(len(ends), np.int64)
    hard = np.zeros(len(ends) - 1, np.bool_)
    plain = np.zeros(256, np.bool_)
    for byte in range(0x80):
        kind = (classes[byte] >> np.uint32(_KIND)) & np.uint32(3)
        plain[byte] = kind != _DROPPED
    for t in range(len(ends) - 1):
        text = data[ends[t] : ends[t + 1]]
        offsets[t + 1] = offsets[t]
        hard[t] = _is_hard(text, classes, plain, repairs)
        if not hard[t]:
            offsets[t + 1] += _tidy_one(text, classes, out[offsets[t] :])
    return out[: offsets[-1]], offsets, hard


@numba.njit(cache=True)
def _is_hard(data: UInt8s, classes: UInt32s, plain: Bools, repairs: np.uint32) -> bool:
    """Tell whether a text may need composing, repair, or a character taken out."""
    i, stop = 0, len(data)
    families = np.uint32(_FAMILY_BITS) * repairs
    while i < stop:
        while i < stop and plain[data[i]]:
            i = max(i + 1, printed_end(data, i))
        # The classes of the two characters before, in a run that is not ASCII.
        before, last, marks = np.uint32(0), np.uint32(0), np.uint32(0)
        while i < stop and not plain[data[i]]:
            if data[i] < 0x80:
                return True
            code, width = decode(data, i)
            found = classes[code]
            here = found & np.uint32(_UNSURE)
            tails = (found >> np.uint32(_TAIL)) & families
            paired = (last >> np.uint32(_PAIR)) & tails
            tripled = (before >> np.uint32(_TRIPLE)) & (last >> np.uint32(_TAIL)) & tails
            dropped = (found >> np.uint32(_KIND)) & np.uint32(3) == _DROPPED
            disordered = here == _UNSURE or (here != 0 and here < marks)
            if disordered or dropped or paired | tripled or (repairs and code < 0xA0):
                return True
            marks, before, last = here, last, found
            i += width
        if repairs and i < stop and data[i] == 0x20 and code | 1 == 0xC3:
            return True
    return False


@numba.njit(cache=True)
def _tidy_one(data: UInt8s, classes: UInt32s, out: UInt8s) -> int:
    """Write a text with its newlines and blank space tidied; return its bytes."""
    i, o, ink, breaks = 0, 0, 0, 0
    while i < len(data):
        start, width, kind = i, 1, np.uint32(_INK)
        i = end = printed_end(data, i)
        while end > start and data[end - 1] == 0x20:
            end -= 1
        if i == start:
            code = np.int64(data[i])
            if code >= 0x80:
                code, width = decode(data, i)
            kind = (classes[code] >> np.uint32(_KIND)) & np.uint32(3)
            i += width
            end = i if kind == _INK else start
        if kind == _NEWLINE:
            # A carriage return before a newline counts with it.
            paired = code == 0x0D and i < len(data) and data[i] == 0x0A
            breaks = breaks if paired else min(breaks + 1, 2)
            o = _break(out, ink, breaks)
            continue
        while ink == 0 and start < end and data[start] == 0x20:
            start += 1
        if ink or end > start:
            copy(data[start:i], out[o:])
            o += i - start
        if end > start:
            ink, breaks = o - (i - end), 0
    return ink


@numba.njit(cache=True)
def _break(out: UInt8s, ink: int, breaks: int) -> int:
    """Write newlines after the last ink, if there is any; return where the next line starts."""
    breaks = breaks if ink else 0
    for j in range(breaks):
        out[ink + j] = 0x0A
    return ink + breaks
