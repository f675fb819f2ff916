"""Index: the sorted keys of every part, searched but never loaded.

Each part of a corpus has two Arrow files, which are mapped: its documents, and its keys in order. A
range of the key space is a stretch of each file; the keys of one document are found by a scan, the
documents of one key by bisection. Parts of earlier snapshots are settled: they are searched for the
keys of the new parts, and only their survivors come back, as only those can be a witness.

It holds one round of new keys at a time. It compares nothing: which documents of a bucket are alike
is for `pairs` to find.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from math import isqrt
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.files import is_remote
from corpus.recipe import MEMORY_BYTES
from corpus.snapshots import Part, Tree
from pipeline.keys import INDEX_SCHEMA, KEY_SCHEMA
from pipeline.parquet import read_columns
from pipeline.stretch import Stretched, open_arrow

# New keys that a round of grouping holds at most, at the default of `memory_bytes`. Measured with
# benchmarks.scale: a worker takes 2.3 GiB where rounds hold 5.5 million, of 10 million documents,
# mapped files included.
_KEYS_PER_ROUND = 4_000_000

# Files of keys that a search keeps open: a process of Linux has 65,530 maps by default, and a file
# takes one. Those beyond are opened again. A guess.
_MOST_OPEN = 16_384
# Parts of a bucket that are looked at side by side, as most of the time is waiting. Guess.
_READS_AT_A_TIME = 16

# A document is (part number, row) packed into one integer, part first.
ROW_BITS = 32

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
Item = TypeVar("Item")
Seen = TypeVar("Seen")


def within(memory_bytes: int, at_default: int) -> int:
    """Scale what a task holds at the default of `dedup.memory_bytes`: 1 GiB, 4 -> 2."""
    return max(1, at_default * memory_bytes // MEMORY_BYTES)


class Corpus(NamedTuple):
    """All parts in the order of delivery; the first `settled` of them keep their verdicts."""

    parts: tuple[Part, ...]
    settled: int

    @property
    def first_new(self) -> np.uint64:
        """The least number that a document of a part that is not settled can have."""
        return np.uint64(self.settled << ROW_BITS)

    @property
    def new_parts(self) -> tuple[Part, ...]:
        """The parts whose documents wait for a verdict."""
        return self.parts[self.settled :]


def index_path(tree: Tree, part: Part) -> str:
    """Return where the documents of a part's index lie."""
    return tree.find(f"index/{part.name}.documents.arrow")


def open_index(tree: Tree, part: Part) -> pa.Table:
    """Open the documents of a part's index."""
    return open_arrow(index_path(tree, part))


def column_values(table: pa.Table, name: str) -> npt.NDArray[Any]:
    """Return a column of numbers as one array."""
    column = table[name]
    if not column.num_chunks:
        return np.empty(0, column.type.to_pandas_dtype())
    return array_values(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks())


def array_values(numbers: pa.Array) -> npt.NDArray[Any]:
    """Return numbers without nulls as they lie in memory.

    `to_numpy` imports pandas first, which takes longer than all that `explain` does.
    """
    assert not numbers.null_count
    values = np.frombuffer(numbers.buffers()[1], numbers.type.to_pandas_dtype())
    return values[numbers.offset : numbers.offset + len(numbers)]


class Keys(NamedTuple):
    """Keys in order, each with its band and its document."""

    key: UInt64s
    band: npt.NDArray[np.uint8]
    document: UInt64s

    def where(self, chosen: npt.NDArray[Any]) -> "Keys":
        """Return some of the entries."""
        return Keys(self.key[chosen], self.band[chosen], self.document[chosen])


class Buckets(NamedTuple):
    """Documents that share a band and key with another one; `number` tells buckets apart."""

    number: Int64s
    band: npt.NDArray[np.uint8]
    document: UInt64s

    def where(self, chosen: npt.NDArray[np.bool_]) -> "Buckets":
        """Return some of the members."""
        return Buckets(self.number[chosen], self.band[chosen], self.document[chosen])


def look_at(tree: Tree, look: Callable[[Item], Seen], items: Iterable[Item]) -> list[Seen]:
    """Look at parts one by one, or where they are remote, some at a time."""
    if not is_remote(tree.root):
        return [look(each) for each in items]
    with ThreadPoolExecutor(_READS_AT_A_TIME) as pool:
        return list(pool.map(look, items))


class Entries(NamedTuple):
    """What the file of a part's keys holds, in order of the keys: each one's band and row."""

    key: UInt64s
    band: npt.NDArray[np.uint8]
    row: npt.NDArray[np.uint32]


def _open_part(tree: Tree, corpus: Corpus, span: tuple[int, int], number: int) -> Entries:
    """Open the keys of a part: a local file, mapped, or of a remote one those of a span."""
    path = tree.find(f"index/{corpus.parts[number].name}.keys.arrow")
    file = Stretched(path)
    table = file.table
    if not is_remote(path):
        return Entries(*(column_values(table, name) for name in KEY_SCHEMA.names))
    start, stop = _rows_between(file, *span)
    file.need(["band", "row"], start, stop)
    # Copies, so that what was read around them goes.
    return Entries(*(column_values(table, n)[start:stop].copy() for n in KEY_SCHEMA.names))


def _rows_between(file: Stretched, low: int, high: int) -> tuple[int, int]:
    """Find the rows with keys of [low, high): looked for where evenly spread keys would lie."""
    rows = len(file.table)
    keys = column_values(file.table, "key")
    slack = 64 + 4 * isqrt(rows)
    while True:
        start = max(0, low * rows // 2**64 - slack)
        stop = min(rows, high * rows // 2**64 + slack)
        file.need(["key"], start, stop)
        begins = start == 0 or keys[start] < low
        if begins and (stop == rows or keys[stop - 1] >= high):
            break
        slack *= 8
    found = keys[start:stop]
    last = len(found) if high == 2**64 else int(np.searchsorted(found, np.uint64(high)))
    return start + int(np.searchsorted(found, np.uint64(low))), start + last


class KeySearch:
    """The sorted keys of all parts; what is held at a time is one round of new ones.

    Local files are mapped when they are first looked at. Of remote ones the span of the search is
    read and held, of settled parts what a round asks for.
    """

    def __init__(self, tree: Tree, corpus: Corpus, span: tuple[int, int] = (0, 2**64)) -> None:
        """Prepare to search keys of [low, high), all by default."""
        self._tree = tree
        self._corpus = corpus
        # Of `self` the cache knows nothing: what it holds goes with the search.
        self._open = partial(_open_part, tree, corpus)
        self._entries = lru_cache(_MOST_OPEN)(partial(self._open, span))
        self._dropped: dict[int, Int64s] = {}

    def rounds(
        self, low: int, high: int, memory_bytes: int = MEMORY_BYTES
    ) -> Iterator[tuple[int, int]]:
        """Cut [low, high) into ranges that hold a bounded number of new keys each."""
        most = within(memory_bytes, _KEYS_PER_ROUND)
        if high - low > 1 and self._count_new(low, high) > most:
            middle = (low + high) // 2
            yield from self.rounds(low, middle, memory_bytes)
            yield from self.rounds(middle, high, memory_bytes)
        else:
            yield low, high

    def read(self, low: int, high: int) -> Keys:
        """Read the new keys of [low, high), and those of settled survivors that are equal."""
        settled = self._corpus.settled
        new = range(settled, len(self._corpus.parts))
        found = look_at(self._tree, lambda number: self._between(number, low, high), new)
        wanted = distinct(np.concatenate([np.empty(0, np.uint64), *(each.key for each in found)]))
        if len(wanted):
            found += look_at(
                self._tree,
                lambda number: self.survivors(self.matching(number, wanted)),
                range(settled),
            )
        return _sorted(found)

    def matching(self, number: int, wanted: UInt64s) -> Keys:
        """Return the entries of a part that have one of these keys, given in order."""
        entries = self._entries_for(number, wanted)
        keys = entries.key
        start = np.searchsorted(keys, wanted, side="left")
        count = np.searchsorted(keys, wanted, side="right") - start
        rows = np.repeat(start - np.cumsum(count) + count, count) + np.arange(count.sum())
        return _keys_of(entries, number, rows.astype(np.int64))

    def having(self, wanted: UInt64s) -> Keys:
        """Return the entries of all parts that have one of these keys, in order."""
        every = range(len(self._corpus.parts))
        return _sorted(look_at(self._tree, lambda number: self.matching(number, wanted), every))

    def of_rows(self, number: int, rows: Int64s) -> Keys:
        """Return all entries of some documents of a part."""
        entries = self._entries(number)
        return _keys_of(entries, number, np.flatnonzero(np.isin(entries.row, rows)))

    def _entries_for(self, number: int, wanted: UInt64s) -> Entries:
        is_held = number >= self._corpus.settled or not is_remote(self._tree.root)
        if is_held or not len(wanted):
            return self._entries(number)
        return self._open((int(wanted[0]), int(wanted[-1]) + 1), number)

    def _count_new(self, low: int, high: int) -> int:
        new = range(self._corpus.settled, len(self._corpus.parts))
        spans = look_at(self._tree, lambda number: self._span(number, low, high), new)
        return sum(span.stop - span.start for span in spans)

    def _between(self, number: int, low: int, high: int) -> Keys:
        return _keys_of(self._entries(number), number, self._span(number, low, high))

    def _span(self, number: int, low: int, high: int) -> slice:
        keys = self._entries(number).key
        start = int(np.searchsorted(keys, np.uint64(low)))
        stop = len(keys) if high == 2**64 else int(np.searchsorted(keys, np.uint64(high)))
        return slice(start, stop)

    def survivors(self, keys: Keys) -> Keys:
        """Leave out the entries of documents that were dropped."""
        stays = np.ones(len(keys.key), np.bool_)
        owners = keys.document >> np.uint64(ROW_BITS)
        for number in np.unique(owners).tolist():
            mine = owners == number
            rows = keys.document[mine] & np.uint64(2**ROW_BITS - 1)
            stays[mine] = ~np.isin(rows.astype(np.int64), self._dropped_of(number))
        return keys.where(stays)

    def _dropped_of(self, number: int) -> Int64s:
        """Return the rows of a settled part that are duplicates; a small read, as it is often."""
        if number not in self._dropped:
            path = self._tree.find(f"duplicates/{self._corpus.parts[number].name}.parquet")
            self._dropped[number] = column_values(read_columns(path, ["row"]), "row")
        return self._dropped[number]


def _keys_of(entries: Entries, number: int, rows: slice | Int64s) -> Keys:
    """Copy some entries of a part, each with its document."""
    document = entries.row[rows].astype(np.uint64) | np.uint64(number << ROW_BITS)
    return Keys(np.array(entries.key[rows]), np.array(entries.band[rows]), document)


def _sorted(found: Sequence[Keys]) -> Keys:
    if not found:
        return Keys(np.empty(0, np.uint64), np.empty(0, np.uint8), np.empty(0, np.uint64))
    keys = Keys(
        np.concatenate([each.key for each in found]),
        np.concatenate([each.band for each in found]),
        np.concatenate([each.document for each in found]),
    )
    return keys.where(np.lexsort((keys.document, keys.band, keys.key)))


def find_buckets(keys: Keys, first_new: np.uint64) -> Buckets:
    """Return the runs of two or more documents with one band and key, a new one among them."""
    count = len(keys.key)
    begins = np.ones(count, np.bool_)
    begins[1:] = (keys.key[1:] != keys.key[:-1]) | (keys.band[1:] != keys.band[:-1])
    number = np.cumsum(begins) - 1
    sizes = np.bincount(number, minlength=1)
    new = np.bincount(number, weights=keys.document >= first_new, minlength=1) > 0
    shared = (sizes > 1)[number] & new[number] if count else np.empty(0, np.bool_)
    return Buckets(number[shared], keys.band[shared], keys.document[shared])


def distinct(values: UInt64s) -> UInt64s:
    """Return the distinct numbers in order; for many, sorting beats the hash table of numpy."""
    values = np.sort(values)
    first = np.ones(len(values), np.bool_)
    first[1:] = values[1:] != values[:-1]
    return values[first]


def distinct_rows(rows: UInt64s) -> UInt64s:
    """Return the distinct rows of two columns in order."""
    rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    first = np.ones(len(rows), np.bool_)
    first[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return rows[first]


def rows_by_part(documents: UInt64s) -> Iterator[tuple[int, Int64s]]:
    """Give the distinct rows asked of each part, in order."""
    unique = distinct(documents)
    numbers = np.unique(unique >> np.uint64(ROW_BITS))
    bounds = np.searchsorted(unique, numbers << np.uint64(ROW_BITS))
    for number, rows in zip(numbers.tolist(), np.split(unique, bounds[1:]), strict=False):
        yield number, (rows & np.uint64(2**ROW_BITS - 1)).astype(np.int64)


def read_column(tree: Tree, corpus: Corpus, documents: UInt64s, name: str) -> pa.ChunkedArray:
    """Read a column of the index for distinct documents given in order."""

    def read(asked: tuple[int, Int64s]) -> pa.ChunkedArray:
        number, rows = asked
        file = Stretched(index_path(tree, corpus.parts[number]))
        file.need([name], int(rows[0]), int(rows[-1]) + 1)
        return file.table[name].take(pa.array(rows))

    found = look_at(tree, read, rows_by_part(documents))
    type_ = INDEX_SCHEMA.field(name).type
    return pa.chunked_array([chunk for column in found for chunk in column.chunks], type_)


def hash_words(column: pa.ChunkedArray) -> UInt64s:
    """Return a column of fixed-size bytes as numbers that sort as it does: [rows, bytes / 8]."""
    words = column.type.byte_width // 8
    values = np.empty((len(column), words), np.uint64)
    start = 0
    for chunk in column.chunks:
        data = np.frombuffer(chunk.buffers()[1], ">u8") if len(chunk) else np.empty(0, ">u8")
        stop = start + len(chunk)
        begin = chunk.offset * words
        values[start:stop] = data[begin : begin + len(chunk) * words].reshape(-1, words)
        start = stop
    return values


def number_equal(*columns: npt.NDArray[Any]) -> Int64s:
    """Number the rows of some columns from 0, so that equal rows have one number."""
    order = np.lexsort(columns)
    begins = np.zeros(len(order), np.bool_)
    for column in columns:
        begins[1:] |= column[order[1:]] != column[order[:-1]]
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(begins)
    return numbers
