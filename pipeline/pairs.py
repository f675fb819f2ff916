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
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.files import is_remote, read_bytes
from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline.index import (
    ROW_BITS,
    Buckets,
    Corpus,
    Int64s,
    KeySearch,
    UInt64s,
    column_values,
    find_buckets,
    open_arrow,
    open_index,
    rows_by_part,
)
from pipeline.jobs import Output
from pipeline.signatures import SET_BAND, shingle_sets, sign, write_arrow

# Raised by hand when the edges of a corpus change.
VERSION = 2

# Text that a block of verification holds, and pairs that a round of grouping forms. Guesses: some
# hundred megabytes of working set.
_BLOCK_BYTES = 64 * 2**20
_PAIRS_PER_ROUND = 8_000_000
# Candidate pairs of one verify task.
PAIRS_PER_TASK = 1_000_000

PAIR_SCHEMA = pa.schema([("left", pa.uint64()), ("right", pa.uint64())])
VERIFIED_SCHEMA = pa.schema([*PAIR_SCHEMA, ("shared", pa.int64()), ("total", pa.int64())])
MEMBER_SCHEMA = pa.schema([("document", pa.uint64())])


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
