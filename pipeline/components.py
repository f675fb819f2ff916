"""Components: which documents can decide about each other, dealt to tasks of bounded size.

A verdict depends on the documents that a chain of edges leads to, and on no other. So documents
that share an id, a text or a shingle set, verified pairs and the members of large buckets are
joined (union and find, Tarjan 1975, the lesser root wins), and whole components are dealt to shares
in the order of their first documents. Each share is then judged by a task of its own.

It is one task for the whole corpus, and holds a batch of edges at a time. Its two arrays, 16 bytes
a document of the corpus, are scratch files in the directory for temporary files, mapped: what of
them is in memory is for the system to decide. A component larger than a share is a share by itself.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO, NamedTuple

import numba
import numpy as np
import pyarrow as pa

from corpus.files import writing
from corpus.snapshots import Tree
from pipeline.index import (
    ROW_BITS,
    Corpus,
    Int64s,
    UInt64s,
    column_values,
    index_path,
    look_at,
)
from pipeline.jobs import Output
from pipeline.stretch import Stretched, open_arrow

# Documents with an edge that one task judges, at the default of `memory_bytes`; they take some 550
# bytes each there, their pairs and strings included (2.46 million: 1.67 GiB, measured with
# benchmarks.scale, 2026-11).
DOCUMENTS_PER_SHARE = 4_000_000
# Places whose shares are written at a time. A guess, some tens of megabytes.
_PLACES_PER_BATCH = 2**20

SHARE_SCHEMA = pa.schema([("document", pa.uint64()), ("share", pa.int64())])


class Found(NamedTuple):
    """The tasks that found the edges: of group and of verify, and of `deal_components` if any."""

    groups: tuple[str, ...]
    checks: tuple[str, ...]
    dealt: str | None = None


def deal_components(tree: Tree, name: str, corpus: Corpus, found: Found, limit: int) -> Output:
    """Deal the documents that have an edge to shares of at most `limit`, whole components each."""
    rows = look_at(tree, lambda part: len(Stretched(index_path(tree, part)).table), corpus.parts)
    bases = np.append(0, np.cumsum(rows)).astype(np.int64)
    path = f"work/deal/{name}.arrow"
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
        parents, sizes = (_map_zeros(file, int(bases[-1])) for file in files)
        for left, right in _edges(tree, found):
            _join(parents, _places(bases, left), _places(bases, right))
        shares, largest = _deal(parents, sizes, limit)
        stream = stack.enter_context(writing(tree.own(path)))
        writer = stack.enter_context(pa.ipc.new_file(stream, SHARE_SCHEMA))
        for start in range(0, len(parents), _PLACES_PER_BATCH):
            places, share = _shares_of(parents, sizes, start, start + _PLACES_PER_BATCH)
            documents = _documents(bases, places)
            writer.write_table(pa.table([documents, share], schema=SHARE_SCHEMA))
    return Output((path,), {"shares": int(shares), "largest": int(largest)})


def _map_zeros(file: BinaryIO, count: int) -> Int64s:
    """Map an empty file as so many zeros; what is never written takes no room on disk."""
    file.truncate(count * np.dtype(np.int64).itemsize)
    return np.asarray(np.memmap(file, np.int64, "r+", shape=(count,)))


def documents_of_share(tree: Tree, name: str, share: int) -> UInt64s:
    """Return the documents of a share in order."""
    found = [np.empty(0, np.uint64)]
    for batch in open_arrow(tree.own(f"work/deal/{name}.arrow")).to_batches():
        mine = batch["share"].to_numpy() == share
        found.append(batch["document"].to_numpy()[mine])
    return np.concatenate(found)


def _edges(tree: Tree, found: Found) -> Iterator[tuple[UInt64s, UInt64s]]:
    """Give what joins documents, a batch at a time; the members of a bucket as a star."""
    for group in found.groups:
        for batch in open_arrow(tree.own(f"work/group/{group}.members.arrow")).to_batches():
            yield batch["document"].to_numpy(), batch["first"].to_numpy()
        large = open_arrow(tree.own(f"work/group/{group}.large.arrow"))
        bucket, document = column_values(large, "bucket"), column_values(large, "document")
        begins = np.flatnonzero(np.diff(bucket, prepend=-1))
        yield document, np.repeat(document[begins], np.diff(np.append(begins, len(bucket))))
    for check in found.checks:
        for batch in open_arrow(tree.own(f"work/verify/{check}.arrow")).to_batches():
            yield batch["left"].to_numpy(), batch["right"].to_numpy()


def _places(bases: Int64s, documents: UInt64s) -> Int64s:
    """Number documents through all parts."""
    part = (documents >> np.uint64(ROW_BITS)).astype(np.int64)
    row = (documents & np.uint64(2**ROW_BITS - 1)).astype(np.int64)
    return bases[part] + row


def _documents(bases: Int64s, places: Int64s) -> UInt64s:
    part = np.searchsorted(bases, places, side="right") - 1
    row = (places - bases[part]).astype(np.uint64)
    return part.astype(np.uint64) << np.uint64(ROW_BITS) | row


@numba.njit(cache=True)
def _root(parents: Int64s, place: int) -> int:
    """Return the root of a place, halving the path; a parent is stored plus one."""
    while parents[place] != place + 1:
        parents[place] = parents[parents[place] - 1]
        place = parents[place] - 1
    return place


@numba.njit(cache=True)
def _join(parents: Int64s, left: Int64s, right: Int64s) -> None:
    """Join the components of pairs; 0 is the parent of a place that has no edge yet."""
    for edge in range(len(left)):
        for place in (left[edge], right[edge]):
            if parents[place] == 0:
                parents[place] = place + 1
        one, other = _root(parents, left[edge]), _root(parents, right[edge])
        parents[max(one, other)] = min(one, other) + 1


@numba.njit(cache=True)
def _deal(parents: Int64s, sizes: Int64s, limit: int) -> tuple[int, int]:
    """Write the share of each component at its root; return how many there are, and the largest.

    `sizes` is all zeros at first. Components 3, 4, 2 and limit 5 -> shares 0, 1, 2.
    """
    for place in range(len(parents)):
        if parents[place] != 0:
            sizes[_root(parents, place)] += 1
    share, filled, largest = 0, 0, 0
    for place in range(len(parents)):
        if parents[place] == place + 1:
            size = sizes[place]
            largest = max(largest, size)
            if filled > 0 and filled + size > limit:
                share, filled = share + 1, 0
            filled += size
            sizes[place] = share
    return share + 1, largest


@numba.njit(cache=True)
def _shares_of(parents: Int64s, shares: Int64s, start: int, stop: int) -> tuple[Int64s, Int64s]:
    """Return the places of a range that have an edge, and the share of each."""
    stop = min(stop, len(parents))
    places, found = np.empty(stop - start, np.int64), np.empty(stop - start, np.int64)
    used = 0
    for place in range(start, stop):
        if parents[place] != 0:
            places[used] = place
            found[used] = shares[_root(parents, place)]
            used += 1
    return places[:used], found[:used]
