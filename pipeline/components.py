"""Components: which documents can decide about each other, dealt to tasks of bounded size.

A verdict depends on the documents that a chain of edges leads to, and on no other. So documents
that share an id, a text or a shingle set, verified pairs and the members of large buckets are
joined (union and find, Tarjan 1975: the larger tree takes in the other), and whole components are
dealt to shares in the order of their first documents. Each share is then judged by a task of its
own. A component larger than a share is a share by itself.

It is one task for the whole corpus, and holds a batch of edges at a time and one array, 4 bytes a
document of the corpus (8 beyond a thousand million). As it runs alone it may take four times
`memory_bytes`, where others run on every core; beyond that the array is a mapped scratch file in
the directory for temporary files. It is written at any place: on a disk that takes many times as
long (BENCHMARKS.md), so such a corpus wants more `memory_bytes`.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.files import writing
from corpus.recipe import MEMORY_BYTES
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
# Tasks of other stages that have the room of one that runs alone. A guess: as many cores.
_TASKS_BESIDE = 4
# Places whose shares are written at a time. A guess, some tens of megabytes.
_PLACES_PER_BATCH = 2**20

Parents = npt.NDArray[np.int32] | npt.NDArray[np.int64]
_NARROW, _WIDE = np.dtype(np.int32), np.dtype(np.int64)

SHARE_SCHEMA = pa.schema([("document", pa.uint64()), ("share", pa.int64())])


class Found(NamedTuple):
    """The tasks that found the edges: of group and of verify, and of `deal_components` if any."""

    groups: tuple[str, ...]
    checks: tuple[str, ...]
    dealt: str | None = None


def deal_components(
    tree: Tree,
    name: str,
    corpus: Corpus,
    found: Found,
    limit: int,
    memory_bytes: int = MEMORY_BYTES,
) -> Output:
    """Deal the documents that have an edge to shares of at most `limit`, whole components each."""
    rows = look_at(tree, lambda part: len(Stretched(index_path(tree, part)).table), corpus.parts)
    bases = np.append(0, np.cumsum(rows)).astype(np.int64)
    path = f"work/deal/{name}.arrow"
    with ExitStack() as stack:
        parents = stack.enter_context(no_parents(int(bases[-1]), memory_bytes))
        for left, right in _edges(tree, found):
            join(parents, _places(bases, left), _places(bases, right))
        shares, largest = deal(parents, limit)
        stream = stack.enter_context(writing(tree.own(path)))
        writer = stack.enter_context(pa.ipc.new_file(stream, SHARE_SCHEMA))
        for places, share in all_shares(parents):
            documents = _documents(bases, places)
            writer.write_table(pa.table([documents, share], schema=SHARE_SCHEMA))
    return Output((path,), {"shares": int(shares), "largest": int(largest)})


def parents_type(count: int) -> np.dtype[np.int32] | np.dtype[np.int64]:
    """Return the narrowest type that holds parents, sizes and shares of so many places."""
    return _NARROW if count <= -(np.iinfo(_NARROW).min // 2) else _WIDE


@contextmanager
def no_parents(count: int, memory_bytes: int = MEMORY_BYTES) -> Iterator[Parents]:
    """Give the array for so many places, none of which has an edge.

    0: no edge yet; n > 0: the parent is place n - 1; below 0: a root, minus the size of its
    component, or in the lower half of all numbers its share.
    """
    dtype = parents_type(count)
    if count * dtype.itemsize <= _TASKS_BESIDE * memory_bytes:
        yield np.zeros(count, dtype)
        return
    with tempfile.TemporaryFile() as file:
        file.truncate(count * dtype.itemsize)  # zeros; what is never written takes no room on disk
        yield np.asarray(np.memmap(file, dtype, "r+", shape=(count,)))


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
def _root(parents: Parents, place: int) -> int:
    """Return the root of a place, halving the path."""
    while parents[place] > 0:
        above = parents[place] - 1
        if parents[above] > 0:
            parents[place] = parents[above]
            above = parents[above] - 1
        place = above
    return place


@numba.njit(cache=True)
def join(parents: Parents, left: Int64s, right: Int64s) -> None:
    """Join the components of pairs of places."""
    for edge in range(len(left)):
        for place in (left[edge], right[edge]):
            if parents[place] == 0:
                parents[place] = -1
        one, other = _root(parents, left[edge]), _root(parents, right[edge])
        if one == other:
            continue
        if parents[one] > parents[other]:
            one, other = other, one
        parents[one] += parents[other]
        parents[other] = one + 1


def deal(parents: Parents, limit: int) -> tuple[int, int]:
    """Write the share of each component at its root; return how many there are, and the largest.

    Components 3, 4, 2 in the order of their first places and limit 5 -> shares 0, 1, 2.
    """
    return _deal(parents, limit, np.iinfo(parents.dtype).min)


@numba.njit(cache=True)
def _deal(parents: Parents, limit: int, lowest: int) -> tuple[int, int]:
    share, filled, largest = 0, 0, 0
    for place in range(len(parents)):
        if parents[place] == 0:
            continue
        root = _root(parents, place)
        if parents[root] < lowest // 2:
            continue
        size = -parents[root]
        largest = max(largest, size)
        if filled > 0 and filled + size > limit:
            share, filled = share + 1, 0
        filled += size
        parents[root] = lowest + share
    return share + 1, largest


def all_shares(parents: Parents) -> Iterator[tuple[Int64s, Int64s]]:
    """Give the places that have an edge, and the share of each, a bounded number at a time."""
    lowest = np.iinfo(parents.dtype).min
    for start in range(0, len(parents), _PLACES_PER_BATCH):
        yield _shares_of(parents, start, start + _PLACES_PER_BATCH, lowest)


@numba.njit(cache=True)
def _shares_of(parents: Parents, start: int, stop: int, lowest: int) -> tuple[Int64s, Int64s]:
    stop = min(stop, len(parents))
    places, found = np.empty(stop - start, np.int64), np.empty(stop - start, np.int64)
    used = 0
    for place in range(start, stop):
        if parents[place] != 0:
            places[used] = place
            found[used] = parents[_root(parents, place)] - lowest
            used += 1
    return places[:used], found[:used]
