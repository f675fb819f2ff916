"""Index: the sorted keys of every part, searched but never loaded.

Each part of a corpus has two Arrow files, which are mapped: its documents, and its keys in order. A
range of the key space is a stretch of each file; the keys of one document are found by a scan, the
documents of one key by bisection. Parts of earlier snapshots are settled: they are searched for the
keys of the new parts, and only their survivors come back, as only those can be a witness.

It holds one round of new keys at a time. It compares nothing: which documents of a bucket are alike
is for `pairs` to find.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.files import RemoteError, is_remote, read_bytes
from corpus.recipe import MEMORY_BYTES
from corpus.snapshots import Part, Tree
from pipeline.keys import INDEX_SCHEMA
from pipeline.parquet import read_columns

# New keys that a round of grouping holds at most, at the default of `memory_bytes`. Measured with
# benchmarks.scale: a worker takes 2.3 GiB where rounds hold 5.5 million, of 10 million documents,
# mapped files included.
_KEYS_PER_ROUND = 4_000_000

# A document is (part number, row) packed into one integer, part first.
ROW_BITS = 32

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]


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


def open_arrow(path: str) -> pa.Table:
    """Open one of our Arrow files, mapped where it is local; `ValueError` names a damaged one."""
    try:
        source = pa.BufferReader(read_bytes(path)) if is_remote(path) else pa.memory_map(path)
        return pa.ipc.open_file(source).read_all()
    except RemoteError:  # a network that fails says nothing about the file
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete its snapshot's directory and refresh again"
        ) from error


def open_index(tree: Tree, part: Part) -> pa.Table:
    """Open the documents of a part's index."""
    return open_arrow(tree.find(f"index/{part.name}.documents.arrow"))


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


class KeySearch:
    """The sorted keys of all parts, mapped; what is held at a time is one round of new ones."""

    def __init__(self, tree: Tree, corpus: Corpus) -> None:
        """Map the index of every part."""
        self._tree = tree
        self._corpus = corpus
        self._tables = [open_arrow(tree.find(f"index/{p.name}.keys.arrow")) for p in corpus.parts]
        self._keys = [column_values(table, "key") for table in self._tables]
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
        found = [
            self._take(number, *self._span(number, low, high))
            for number in range(settled, len(self._keys))
        ]
        wanted = distinct(np.concatenate([np.empty(0, np.uint64), *(each.key for each in found)]))
        if len(wanted):
            found += [self.survivors(self.matching(number, wanted)) for number in range(settled)]
        return _sorted(found)

    def matching(self, number: int, wanted: UInt64s) -> Keys:
        """Return the entries of a part that have one of these keys, given in order."""
        keys = self._keys[number]
        start = np.searchsorted(keys, wanted, side="left")
        count = np.searchsorted(keys, wanted, side="right") - start
        rows = np.repeat(start - np.cumsum(count) + count, count) + np.arange(count.sum())
        return self._take(number, rows.astype(np.int64))

    def having(self, wanted: UInt64s) -> Keys:
        """Return the entries of all parts that have one of these keys, in order."""
        return _sorted([self.matching(number, wanted) for number in range(len(self._keys))])

    def of_rows(self, number: int, rows: Int64s) -> Keys:
        """Return all entries of some documents of a part."""
        owner = column_values(self._tables[number], "row")
        return self._take(number, np.flatnonzero(np.isin(owner, rows)))

    def _count_new(self, low: int, high: int) -> int:
        spans = [self._span(n, low, high) for n in range(self._corpus.settled, len(self._keys))]
        return sum(span.stop - span.start for (span,) in spans)

    def _span(self, number: int, low: int, high: int) -> tuple[slice]:
        keys = self._keys[number]
        start = int(np.searchsorted(keys, np.uint64(low)))
        stop = len(keys) if high == 2**64 else int(np.searchsorted(keys, np.uint64(high)))
        return (slice(start, stop),)

    def _take(self, number: int, rows: slice | Int64s) -> Keys:
        table = self._tables[number]
        document = column_values(table, "row")[rows].astype(np.uint64)
        document |= np.uint64(number << ROW_BITS)
        return Keys(self._keys[number][rows], column_values(table, "band")[rows], document)

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


def rows_by_part(documents: UInt64s) -> Iterator[tuple[int, Int64s]]:
    """Give the distinct rows asked of each part, in order."""
    unique = distinct(documents)
    numbers = np.unique(unique >> np.uint64(ROW_BITS))
    bounds = np.searchsorted(unique, numbers << np.uint64(ROW_BITS))
    for number, rows in zip(numbers.tolist(), np.split(unique, bounds[1:]), strict=False):
        yield number, (rows & np.uint64(2**ROW_BITS - 1)).astype(np.int64)


def read_column(tree: Tree, corpus: Corpus, documents: UInt64s, name: str) -> pa.ChunkedArray:
    """Read a column of the index for distinct documents given in order."""
    type_ = INDEX_SCHEMA.field(name).type
    found = [pa.chunked_array([], type_)]
    for number, rows in rows_by_part(documents):
        found.append(open_index(tree, corpus.parts[number])[name].take(pa.array(rows)))
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
