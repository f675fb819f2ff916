"""Pairs: which documents may be alike, and which of them verifiably are.

*Group* takes one range of the index's key space and finds the members of each bucket. *Verify*
compares the shingle sets of the candidates themselves (or, as an option, their signatures) and
keeps the pairs at or above the threshold. Documents with identical shingle sets share every band
and have similarity 1: they collapse to one before pairs are formed. No bucket is cut, and nothing
depends on the number of partitions.

Parts of earlier snapshots are settled: their index is searched for the keys of the new parts, never
loaded, and only their survivors can be a witness, so only those take part.

Group holds a bounded number of new keys at a time and the pairs of its range; verify holds a block
of texts. A bucket of n different sets costs n^2/2 comparisons.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.files import is_remote, read_bytes
from corpus.recipe import Dedup
from corpus.snapshots import Part, Tree
from pipeline.clean import kept_mask
from pipeline.jobs import Output
from pipeline.signatures import SET_BAND, shingle_sets, sign, write_arrow

# Raised by hand when the edges of a corpus change.
VERSION = 2

# Text that a block of verification holds, and keys that a round of grouping holds. Guesses: a
# gigabyte of working set.
_BLOCK_BYTES = 64 * 2**20
_KEYS_PER_ROUND = 8_000_000
_PAIRS_PER_ROUND = 8_000_000
# Candidate pairs of one verify task.
PAIRS_PER_TASK = 1_000_000

# A document is (part number, row) packed into one integer, part first.
ROW_BITS = 32

PAIR_SCHEMA = pa.schema([("left", pa.uint64()), ("right", pa.uint64())])
VERIFIED_SCHEMA = pa.schema([*PAIR_SCHEMA, ("shared", pa.int64()), ("total", pa.int64())])
MEMBER_SCHEMA = pa.schema([("document", pa.uint64())])

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]


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
    return column.combine_chunks().to_numpy()  # type: ignore[no-any-return]


def group_partition(tree: Tree, name: str, corpus: Corpus, share: tuple[int, int]) -> Output:
    """Find the candidate pairs and the members of shared values in one range of the key space."""
    partition, partitions = share
    search = KeySearch(tree, corpus)
    members, pairs = [np.empty(0, np.uint64)], [np.empty((0, 2), np.uint64)]
    for low, high in search.rounds(
        partition * 2**64 // partitions, (partition + 1) * 2**64 // partitions
    ):
        buckets = find_buckets(search.read(low, high), corpus.first_new)
        values = buckets.band >= SET_BAND
        members.append(np.unique(buckets.document[values]))
        pairs.append(candidate_pairs(tree, corpus, buckets.where(~values)))
    found = np.unique(np.concatenate(pairs), axis=0)
    paths = (f"work/group/{name}.members.arrow", f"work/group/{name}.pairs.arrow")
    documents = np.unique(np.concatenate(members))
    write_arrow(tree.own(paths[0]), pa.table([documents], schema=MEMBER_SCHEMA))
    columns = [found[:, 0].copy(), found[:, 1].copy()]
    write_arrow(tree.own(paths[1]), pa.table(columns, schema=PAIR_SCHEMA))
    return Output(paths, {"pairs": len(found), "members": len(documents)})


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
        self._kept: dict[int, npt.NDArray[np.bool_]] = {}

    def rounds(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Cut [low, high) into ranges that hold a bounded number of new keys each."""
        if high - low > 1 and self._count_new(low, high) > _KEYS_PER_ROUND:
            middle = (low + high) // 2
            yield from self.rounds(low, middle)
            yield from self.rounds(middle, high)
        else:
            yield low, high

    def read(self, low: int, high: int) -> Keys:
        """Read the new keys of [low, high), and those of settled survivors that are equal."""
        settled = self._corpus.settled
        found = [
            self._take(number, *self._span(number, low, high))
            for number in range(settled, len(self._keys))
        ]
        wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *(each.key for each in found)]))
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
            stays[mine] = self._kept_of(number)[rows]
        return keys.where(stays)

    def _kept_of(self, number: int) -> npt.NDArray[np.bool_]:
        if number not in self._kept:
            part = self._corpus.parts[number]
            documents = len(open_index(self._tree, part))
            self._kept[number] = kept_mask(self._tree, part.name, documents)
        return self._kept[number]


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


def candidate_pairs(tree: Tree, corpus: Corpus, buckets: Buckets) -> UInt64s:
    """Pair the documents of MinHash buckets: [pairs, 2], sorted, the lesser document first.

    One document, the least, stands for each shingle set; settled ones are not paired with each
    other.
    """
    documents, places = np.unique(buckets.document, return_inverse=True)
    sets = _number_sets(tree, corpus, documents)[places]
    order = np.lexsort((buckets.document, sets, buckets.number))
    number, sets, document = buckets.number[order], sets[order], buckets.document[order]
    first = np.ones(len(number), np.bool_)
    first[1:] = (number[1:] != number[:-1]) | (sets[1:] != sets[:-1])
    number, document = number[first], document[first]
    # What stands for a set is the same in every bucket, as equal sets share all of them.
    order = np.lexsort((document, number))
    starts = np.flatnonzero(np.diff(number[order], prepend=-1))
    bounds = np.append(starts, len(number)).astype(np.int64)
    found = [np.empty((0, 2), np.uint64)]
    for span in _rounds_of_pairs(bounds):
        pairs = _pair_buckets(document[order], bounds[span[0] : span[1] + 1], corpus.first_new)
        found = [np.unique(np.concatenate([*found, pairs]), axis=0)]
    return found[0]


def _rounds_of_pairs(bounds: Int64s) -> Iterator[tuple[int, int]]:
    """Cut buckets into runs that give a bounded number of pairs, one bucket at least."""
    sizes = np.diff(bounds)
    totals = np.cumsum(sizes * (sizes - 1) // 2)
    start = 0
    while start < len(sizes):
        before = totals[start - 1] if start else 0
        stop = int(np.searchsorted(totals, before + _PAIRS_PER_ROUND, side="right"))
        yield start, max(stop, start + 1)
        start = max(stop, start + 1)


@numba.njit(cache=True)
def _pair_buckets(documents: UInt64s, bounds: Int64s, first_new: np.uint64) -> UInt64s:
    total = 0
    for bucket in range(len(bounds) - 1):
        size = bounds[bucket + 1] - bounds[bucket]
        total += size * (size - 1) // 2
    pairs = np.empty((total, 2), np.uint64)
    used = 0
    for bucket in range(len(bounds) - 1):
        for j in range(bounds[bucket], bounds[bucket + 1]):
            if documents[j] < first_new:  # the later of two settled ones: no new one before it
                continue
            for i in range(bounds[bucket], j):
                pairs[used, 0] = documents[i]
                pairs[used, 1] = documents[j]
                used += 1
    return pairs[:used]


def _number_sets(tree: Tree, corpus: Corpus, documents: UInt64s) -> Int64s:
    """Give the documents, in order, numbers that are equal where their shingle sets are."""
    hashes = [np.empty(0, "S16")]
    for part, rows in rows_by_part(documents):
        table = open_index(tree, corpus.parts[part])
        hashes.append(np.array(table["set_hash"].take(pa.array(rows)).to_pylist(), "S16"))
    return np.unique(np.concatenate(hashes), return_inverse=True)[1].astype(np.int64)


def rows_by_part(documents: UInt64s) -> Iterator[tuple[int, Int64s]]:
    """Give the distinct rows asked of each part, in order."""
    unique = np.unique(documents)
    numbers = unique >> np.uint64(ROW_BITS)
    for number in np.unique(numbers):
        rows = unique[numbers == number] & np.uint64(2**ROW_BITS - 1)
        yield int(number), rows.astype(np.int64)


def verify_share(
    tree: Tree,
    name: str,
    config: Dedup,
    corpus: Corpus,
    share: tuple[int, int, Sequence[str]],
) -> Output:
    """Compare the candidate pairs that fall to this task and keep those above the threshold.

    `share` is the task's number, how many there are, and the names of the group tasks.
    """
    left, right = _pairs_of(tree, *share)
    verified = [np.empty((0, 4), np.int64)]
    for start, stop in _blocks(tree, corpus, left, right):
        verified.append(compare(tree, corpus, (left[start:stop], right[start:stop]), config))
    rows = np.concatenate(verified)
    path = f"work/verify/{name}.arrow"
    columns = [rows[:, 0].astype(np.uint64), rows[:, 1].astype(np.uint64), rows[:, 2], rows[:, 3]]
    write_arrow(tree.own(path), pa.table([c.copy() for c in columns], schema=VERIFIED_SCHEMA))
    return Output((path,), {"compared": len(left), "verified": len(rows)})


def _pairs_of(
    tree: Tree, number: int, tasks: int, groups: Sequence[str]
) -> tuple[UInt64s, UInt64s]:
    """Return this task's share of all pairs, once each, however many bands they share."""
    mine = [np.empty((0, 2), np.uint64)]
    for group in groups:
        table = open_arrow(tree.own(f"work/group/{group}.pairs.arrow"))
        pairs = np.stack([column_values(table, "left"), column_values(table, "right")], axis=1)
        # Neighbouring rows fall to one task, so that it reads few row groups.
        block = (pairs[:, 0] >> np.uint64(10)) % np.uint64(tasks)
        mine.append(pairs[block == number])
    unique = np.unique(np.concatenate(mine), axis=0)
    return unique[:, 0].copy(), unique[:, 1].copy()


def _blocks(tree: Tree, corpus: Corpus, left: UInt64s, right: UInt64s) -> Iterator[tuple[int, int]]:
    """Cut pairs into runs whose documents hold a bounded amount of text."""
    sizes: dict[int, int] = {}
    for part, rows in rows_by_part(np.concatenate([left, right])):
        texts = open_index(tree, corpus.parts[part])["text_bytes"].take(pa.array(rows)).to_pylist()
        for row, size in zip(rows.tolist(), texts, strict=True):
            sizes[part << ROW_BITS | row] = size
    start, held, seen = 0, 0, set[int]()
    for i, pair in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        if held > _BLOCK_BYTES:
            yield start, i
            start, held, seen = i, 0, set()
        for document in pair:
            if document not in seen:
                seen.add(document)
                held += sizes[document]
    if start < len(left):
        yield start, len(left)


def compare(tree: Tree, corpus: Corpus, pairs: tuple[UInt64s, UInt64s], config: Dedup) -> Int64s:
    """Compare pairs by their texts: rows (left, right, shared, total) of those that are alike."""
    left, right = pairs
    documents = np.unique(np.concatenate([left, right]))
    texts = [text for _, text in read_texts(tree, corpus, documents)]
    first, second = np.searchsorted(documents, left), np.searchsorted(documents, right)
    if config.verify == "exact":
        shingles, offsets = shingle_sets(texts, config.ngram)
        shared = _count_shared(shingles, offsets, first, second)
        sizes = np.diff(offsets)
        total = sizes[first] + sizes[second] - shared
    else:
        signatures = sign(texts, config).signatures
        shared = np.array(
            [(signatures[i] == signatures[j]).sum() for i, j in zip(first, second, strict=True)],
            np.int64,
        )
        total = np.full(len(left), config.bands * config.rows, np.int64)
    alike = shared / np.maximum(total, 1) >= config.threshold
    rows = np.stack([left.astype(np.int64), right.astype(np.int64), shared, total], axis=1)
    return rows[alike]


@numba.njit(cache=True)
def _count_shared(shingles: UInt64s, offsets: Int64s, first: Int64s, second: Int64s) -> Int64s:
    """Count the common shingles of pairs of sorted sets."""
    shared = np.zeros(len(first), np.int64)
    for p in range(len(first)):
        i, i_end = offsets[first[p]], offsets[first[p] + 1]
        j, j_end = offsets[second[p]], offsets[second[p] + 1]
        while i < i_end and j < j_end:
            a, b = shingles[i], shingles[j]
            shared[p] += a == b
            i += a <= b
            j += b <= a
    return shared


def read_texts(tree: Tree, corpus: Corpus, documents: UInt64s) -> Iterator[tuple[int, str]]:
    """Give documents, in order, with their texts."""
    for part, rows in rows_by_part(documents):
        path = tree.find(f"clean/{corpus.parts[part].name}.parquet")
        for row, text in zip(rows.tolist(), read_rows(path, rows, "text"), strict=True):
            yield part << ROW_BITS | row, text


def read_rows(path: str, rows: Int64s, column: str) -> Iterable[Any]:
    """Read single rows of a column of a Parquet file, opening only their row groups."""
    with pq.ParquetFile(path if not is_remote(path) else pa.BufferReader(read_bytes(path))) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            inside = rows[(rows >= start) & (rows < stop)] - start
            if len(inside):
                values = file.read_row_group(group, columns=[column])[column]
                yield from values.take(pa.array(inside)).to_pylist()
            start = stop


def read_row(path: str, row: int) -> dict[str, Any]:
    """Read one row of a Parquet file, opening only its row group."""
    with pq.ParquetFile(path if not is_remote(path) else pa.BufferReader(read_bytes(path))) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if start <= row < stop:
                table = file.read_row_group(group)
                return dict(table.slice(row - start, 1).to_pylist()[0])
            start = stop
    raise IndexError(f"{path} has {start} rows, row {row} was asked for")
