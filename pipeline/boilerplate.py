"""Takes lines out of documents that stand on a list: menus, notices, what a site repeats.

Which lines repeat needs the whole corpus, so it is learned once by a command of its own
(`pipeline/repeats.py`) and then fixed by fingerprint: a document's text depends on that document
and the list alone. A line is what lies between newlines, without spaces and tabs at its ends, in
the case it has. Lines without an ASCII letter or any other character than ASCII (rules, braces,
page numbers) are layout and never on a list. What is left of a text is stripped; blank lines stay.

A compiled loop hashes every line, a hit in the sorted hashes is compared in full, so nothing is
taken out by chance. The list is JSON lines, to be read by people: a head, then every line with the
number of documents that held it. Some 300 MB/s on one core (2026-11, `benchmarks/lists.py`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numba
import numpy as np
import orjson
import pyarrow as pa

from pipeline.kernels import GOLDEN, SEED, Int64s, UInt8s, UInt64s, mix
from pipeline.lists import filter_of, fingerprint_of, may_hold, place_of
from pipeline.spans import bytes_of, replace_spans

# Raised by hand when other lines are taken out, or the list is written otherwise.
VERSION = 1

_MARGIN = " \t"
_NEWLINE = ord("\n")


class Index(NamedTuple):
    """Listed lines by hash: sorted hashes and their filter; line n is data[ends[n] : ends[n + 1]].

    Lines that share a hash stand next to one another.
    """

    hashes: UInt64s
    bits: UInt64s
    data: UInt8s
    ends: Int64s


@dataclass(frozen=True)
class Boilerplate:
    """Lines to take out, each with how many documents held it; `head` says how it was learned."""

    head: Mapping[str, Any]
    lines: Mapping[str, int] = field(repr=False)

    @classmethod
    def parse(cls, data: bytes) -> "Boilerplate":
        """Read a list; `ValueError` names a bad line of it."""
        head: Mapping[str, Any] = {}
        lines: dict[str, int] = {}
        for number, row in enumerate(data.splitlines(), 1):
            try:
                fields = orjson.loads(row)
                if number == 1:
                    head = fields
                    _check_version(head)
                else:
                    lines[_checked(fields["line"])] = int(fields["documents"])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"line {number} of the list of boilerplate: {error}") from None
        if not head:
            raise ValueError("the list of boilerplate is empty")
        return cls(head, lines)

    def to_bytes(self) -> bytes:
        """Write the list in canonical form: the head, then the lines in order."""
        head = orjson.dumps(dict(self.head) | {"version": VERSION}, option=orjson.OPT_SORT_KEYS)
        rows = (
            orjson.dumps({"documents": self.lines[line], "line": line})
            for line in sorted(self.lines)
        )
        return b"".join(row + b"\n" for row in (head, *rows))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the list in canonical form."""
        return fingerprint_of(self.to_bytes())

    @cached_property
    def _index(self) -> Index:
        return index_lines(line.encode() for line in self.lines)

    def remove(self, texts: pa.Array) -> tuple[pa.LargeStringArray, Int64s]:
        """Return the texts without listed lines, and how many each lost: [texts]."""
        data, ends = bytes_of(texts)
        owners, starts, stops = _find_lines(data, ends, self._index)
        touched, first, counts = np.unique(owners, return_index=True, return_counts=True)
        removed = np.zeros(len(texts), np.int64)
        removed[touched] = counts
        replacements = [
            _without(data, (int(ends[text]), int(ends[text + 1])), spans)
            for text, spans in zip(
                touched, np.split(np.stack([starts, stops], 1), first[1:]), strict=False
            )
        ]
        return replace_spans(texts, ends[touched], ends[touched + 1], replacements), removed


def _without(data: UInt8s, span: tuple[int, int], cuts: Int64s) -> bytes:
    done, stop = span
    pieces = []
    for first, last in cuts.tolist():
        pieces.append(data[done:first].tobytes())
        done = last
    pieces.append(data[done:stop].tobytes())
    return b"".join(pieces).decode().strip().encode()


def _check_version(head: Any) -> None:  # noqa: ANN401 - any JSON
    if not isinstance(head, dict) or head.get("version") != VERSION:
        raise ValueError(f"a head with version {VERSION} is expected, found {head!r}")


def _checked(line: str) -> str:
    if "\n" in line or line != line.strip(_MARGIN) or not list_lines(line):
        raise ValueError(f"{line!r} is no line that could be listed")
    return line


def list_lines(text: str) -> list[str]:
    """Return the lines of a text that may be listed, written for reading."""
    stripped = [line.strip(_MARGIN) for line in text.split("\n")]
    return [line for line in stripped if any(c.isalpha() or not c.isascii() for c in line)]


def index_lines(lines: Iterable[bytes]) -> Index:
    """Return distinct lines by hash."""
    listed = sorted(lines)
    ends = np.cumsum([0, *map(len, listed)])
    hashes = hash_lines(np.frombuffer(b"".join(listed), np.uint8), ends).hashes
    order = np.argsort(hashes, kind="stable")
    listed = [listed[n] for n in order.tolist()]
    return Index(
        hashes[order],
        filter_of(hashes),
        np.frombuffer(b"".join(listed), np.uint8),
        np.cumsum([0, *map(len, listed)]),
    )


class Lines(NamedTuple):
    """The lines of texts that may be listed: text, hash, and [start, stop) without margins."""

    owners: Int64s
    hashes: UInt64s
    starts: Int64s
    stops: Int64s


@numba.njit(cache=True)
def _next_line(data: UInt8s, i: int, high: int) -> tuple[int, int, int, bool, np.uint64]:
    """Return where a line ends, where its content lies, whether it may be listed, and its hash."""
    start, stop, letters = i, i, False
    while start < high and (data[start] == 32 or data[start] == 9):
        start += 1
    state = last = np.uint64(SEED)
    i = stop = start
    while i < high and data[i] != _NEWLINE:
        byte = data[i]
        i += 1
        state = (state ^ np.uint64(byte)) * np.uint64(GOLDEN)
        letters |= (97 <= (byte | 32) <= 122) | (byte >= 128)
        if (byte != 32) & (byte != 9):
            last, stop = state, i
    return i, start, stop, letters, mix(last)


@numba.njit(cache=True)
def hash_lines(data: UInt8s, ends: Int64s) -> Lines:
    """Return every line of the texts that may be listed."""
    count = len(ends)
    for i in range(ends[0], ends[-1]):
        count += data[i] == _NEWLINE
    owners, hashes = np.empty(count, np.int64), np.empty(count, np.uint64)
    starts, stops = np.empty(count, np.int64), np.empty(count, np.int64)
    n = 0
    for t in range(len(ends) - 1):
        i = ends[t]
        while i < ends[t + 1]:
            i, starts[n], stops[n], letters, hashes[n] = _next_line(data, i, ends[t + 1])
            owners[n] = t
            n += letters
            i += 1
    return Lines(owners[:n], hashes[:n], starts[:n], stops[:n])


@numba.njit(cache=True)
def _is_listed(data: UInt8s, start: int, stop: int, index: Index, value: np.uint64) -> bool:
    place = place_of(index.hashes, value)
    while 0 <= place < len(index.hashes) and index.hashes[place] == value:
        size = index.ends[place + 1] - index.ends[place]
        i = 0
        while size == stop - start and i < size:
            if data[start + i] != index.data[index.ends[place] + i]:
                break
            i += 1
        if i == size == stop - start:
            return True
        place += 1
    return False


@numba.njit(cache=True)
def _find_lines(data: UInt8s, ends: Int64s, index: Index) -> tuple[Int64s, Int64s, Int64s]:
    """Return the text of every listed line, and where it and its newline begin and end."""
    owners, starts, stops = [0 for _ in range(0)], [0 for _ in range(0)], [0 for _ in range(0)]
    for t in range(len(ends) - 1):
        i = ends[t]
        while i < ends[t + 1]:
            low = i
            i, start, stop, letters, value = _next_line(data, i, ends[t + 1])
            i += 1
            if not (letters and may_hold(index.bits, value)):
                continue
            if _is_listed(data, start, stop, index, value):
                owners.append(t)
                starts.append(low)
                stops.append(min(i, ends[t + 1]))
    return np.array(owners, np.int64), np.array(starts, np.int64), np.array(stops, np.int64)
