"""Walk: the first independent set over arrays, for corpora of any size.

`dedup.first_independent_set` states the rule readably; this is the same walk, compiled. Documents
are numbers in the total order; an id, a text or a shingle set (of one scope) is a group number with
one array cell for its survivor, of which there can be one only. Similar sets come in two ways. The
pairs of ordinary buckets were verified before and are the rows of an adjacency list. The sets of
large buckets, whose pairs would be too many to list, are compared here, each with the *survivors*
before it, which is all that a verdict can depend on.

A large bucket's comparisons go through a prefix filter (Chaudhuri et al. 2006; Bayardo, Ma, Srikant
2007): two sets that share at least `need` of their tokens share one of their first
`size - need + 1` in any fixed order, and in the order of rarity few others do. So the survivors
are indexed by these prefixes, a set looks up its own, and the first candidate (in the total order)
that shares a large bucket and is verified by a full merge is its witness. Nothing is estimated: the
filter may only propose too many. The alternative, a join of all members before the walk, lists all
n^2/2 pairs again where all are alike; this one compares with one survivor then.

It costs about a microsecond and some tens of bytes a document; in a large bucket a sort of the set
and its candidates' merges besides, and some 25 bytes a token of the members' prefixes. At worst,
where a bucket's survivors share rare tokens but are not alike, it is quadratic in survivors.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from pipeline.kernels import GOLDEN, Int64s, UInt64s

# Cells that count how common a token is, 64 MiB; sharing a cell costs speed, never a pair. Guess.
_COUNT_BITS = 24
# Heads of the lists of the prefix index: 2^26 cells of 8 bytes at most. Guess.
_MAX_HEAD_BITS = 26
# Room for the rounding of a similarity: the filter's bounds lie this much below the threshold.
_SLACK = 1e-9
_READ_ONLY = numba.types.Array(numba.types.uint64, 1, "C", readonly=True)

Int32s = npt.NDArray[np.int32]
Float64s = npt.NDArray[np.float64]


class Graph(NamedTuple):
    """The documents in the total order, by what makes an edge.

    identity, text, shingles: [documents] group numbers, -1 for a document without shingles;
    offsets: [sets + 1] into neighbour and similarity, the verified pairs of sets, both ways;
    settled: so many documents, the first ones, have been judged before and stay.
    """

    identity: Int32s
    text: Int32s
    shingles: Int32s
    offsets: Int64s
    neighbour: Int32s
    similarity: Float64s
    settled: int


class Large(NamedTuple):
    """The shingle sets in large buckets: their tokens and which buckets each is in.

    number: [sets of the graph], -1 for a set that is in no large bucket; group: the other way;
    tokens: chunks of tokens; set n has tokens[chunk[n]][start[n] : stop[n]], in order;
    bucket: set n is in bucket[bucket_start[n] : bucket_start[n + 1]], in order;
    total: what a similarity is a share of; 0 for the size of the union.
    """

    number: Int64s
    group: Int64s
    tokens: Any
    chunk: Int64s
    start: Int64s
    stop: Int64s
    bucket_start: Int64s
    bucket: Int64s
    threshold: float
    total: int


class Verdicts(NamedTuple):
    """Per document in order: its witness or -1, the number of the method, and the similarity."""

    witness: Int64s
    method: npt.NDArray[np.int8]
    similarity: Float64s


class _Index(NamedTuple):
    """The prefixes of the survivors, as linked lists, and room to work in.

    state: how many entries there are, and how many sets were looked up.
    """

    counts: npt.NDArray[np.uint32]
    heads: Int64s
    following: Int64s
    owner: Int32s
    seen: Int64s
    found: Int64s
    state: Int64s


class _Survivors(NamedTuple):
    """The survivor of each group or -1, and the first similar survivor of a set once there is."""

    by_id: Int32s
    by_text: Int32s
    by_set: Int32s
    first: Int32s
    first_similarity: Float64s


def chunks_of(chunks: Iterable[UInt64s]) -> Any:  # noqa: ANN401 - a list of numba
    """Return arrays as the list that `Large` holds; they are not copied."""
    listed = numba.typed.List.empty_list(_READ_ONLY)
    for chunk in chunks:
        values = np.ascontiguousarray(chunk).view()
        values.flags.writeable = False
        listed.append(values)
    return listed


def no_large(sets: int) -> Large:
    """Return what a walk without large buckets is given."""
    none = np.empty(0, np.int64)
    numbers = np.full(sets, -1, np.int64)
    starts = np.zeros(1, np.int64)
    return Large(numbers, none, chunks_of(()), none, none, none, starts, none, 1.0, 0)


@numba.njit(cache=True)
def adjacency(
    left: Int32s, right: Int32s, similarity: Float64s, sets: int
) -> tuple[Int64s, Int32s, Float64s]:
    """Return offsets, neighbours and similarities of pairs of sets, each pair both ways."""
    offsets = np.zeros(sets + 1, np.int64)
    for pair in range(len(left)):
        offsets[left[pair] + 1] += 1
        offsets[right[pair] + 1] += 1
    offsets = np.cumsum(offsets)
    place = offsets[:-1].copy()
    neighbour = np.empty(2 * len(left), np.int32)
    values = np.empty(2 * len(left), np.float64)
    for pair in range(len(left)):
        for one, other in ((left[pair], right[pair]), (right[pair], left[pair])):
            neighbour[place[one]] = other
            values[place[one]] = similarity[pair]
            place[one] += 1
    return offsets, neighbour, values


def walk(graph: Graph, large: Large) -> Verdicts:
    """Judge the documents in order."""
    sets = len(graph.offsets) - 1
    survivors = _Survivors(
        np.full(int(graph.identity.max(initial=-1)) + 1, -1, np.int32),
        np.full(int(graph.text.max(initial=-1)) + 1, -1, np.int32),
        np.full(sets, -1, np.int32),
        np.full(sets, -1, np.int32),
        np.empty(sets, np.float64),
    )
    verdicts: Verdicts = _walk(graph, large, survivors, _open_index(large))
    return verdicts


def _open_index(large: Large) -> _Index:
    entries = int(_prefix_sizes(large.stop - large.start, large.threshold).sum())
    bits = min(max(entries, 1).bit_length(), _MAX_HEAD_BITS)
    sets = len(large.start)
    counts = np.zeros(2**_COUNT_BITS if sets else 1, np.uint32)
    if sets:
        _count_tokens(large, counts)
    return _Index(
        counts,
        np.full(2**bits, -1, np.int64),
        np.empty(entries, np.int64),
        np.empty(entries, np.int32),
        np.zeros(sets, np.int64),
        np.empty(sets, np.int64),
        np.zeros(2, np.int64),
    )


@numba.njit(cache=True)
def _prefix_sizes(sizes: Int64s, threshold: float) -> Int64s:
    needs = np.ceil(threshold * (1 - _SLACK) * sizes)
    return sizes - needs.astype(np.int64) + 1  # type: ignore[no-any-return]


@numba.njit(cache=True)
def _spread(token: np.uint64) -> np.uint64:
    # Fibonacci hashing (Knuth, TAOCP 3, 6.4); the upper bits are the good ones.
    return (token ^ (token >> np.uint64(32))) * np.uint64(GOLDEN)


@numba.njit(cache=True)
def _count_tokens(large: Large, counts: npt.NDArray[np.uint32]) -> None:
    for n in range(len(large.start)):
        tokens = large.tokens[large.chunk[n]]
        for i in range(large.start[n], large.stop[n]):
            counts[_spread(tokens[i]) >> np.uint64(64 - _COUNT_BITS)] += np.uint32(1)


@numba.njit(cache=True)
def _prefix(large: Large, index: _Index, n: int) -> UInt64s:
    """Return the cells of the rarest tokens of a set, so many that no similar set shares none.

    A token's key is how common it is, then 40 bits of its hash: two tokens with one key count as
    one token twice, for which the filter holds as well.
    """
    tokens = large.tokens[large.chunk[n]][large.start[n] : large.stop[n]]
    keys = np.empty(len(tokens), np.uint64)
    for i in range(len(tokens)):
        hashed = _spread(tokens[i])
        common = min(index.counts[hashed >> np.uint64(64 - _COUNT_BITS)], np.uint32(2**24 - 1))
        keys[i] = (np.uint64(common) << np.uint64(40)) | (hashed >> np.uint64(24))
    keys.sort()
    need = np.int64(np.ceil(large.threshold * (1 - _SLACK) * len(tokens)))
    cells = keys[: len(tokens) - need + 1]
    for i in range(len(cells)):
        cells[i] = _spread(cells[i]) % np.uint64(len(index.heads))
    return cells


@numba.njit(cache=True)
def _share_a_bucket(large: Large, one: int, other: int) -> bool:
    i, i_end = large.bucket_start[one], large.bucket_start[one + 1]
    j, j_end = large.bucket_start[other], large.bucket_start[other + 1]
    while i < i_end and j < j_end:
        if large.bucket[i] == large.bucket[j]:
            return True
        if large.bucket[i] < large.bucket[j]:
            i += 1
        else:
            j += 1
    return False


@numba.njit(cache=True)
def _similarity(large: Large, one: int, other: int) -> float:
    """Return the similarity of two sets, or less than the threshold where it is less."""
    first, second = large.tokens[large.chunk[one]], large.tokens[large.chunk[other]]
    i, i_end = large.start[one], large.stop[one]
    j, j_end = large.start[other], large.stop[other]
    sizes = i_end - i + j_end - j
    need = large.threshold * (1 - _SLACK) * max(i_end - i, j_end - j)
    shared = 0
    while i < i_end and j < j_end:
        if shared + min(i_end - i, j_end - j) < need:
            return -1.0
        a, b = first[i], second[j]
        shared += a == b
        i += a <= b
        j += b <= a
    return shared / (large.total if large.total else sizes - shared)


@numba.njit(cache=True)
def _first_in_large(
    graph: Graph, large: Large, survivors: _Survivors, index: _Index, place: tuple[int, int]
) -> tuple[int, float]:
    """Return the first survivor that shares a large bucket with a set and is like it, or -1.

    `place` is the set's number and the place in the order that the survivor must lie before.
    """
    n, limit = place
    index.state[1] += 1
    count = 0
    for cell in _prefix(large, index, n):
        entry = index.heads[cell]
        while entry >= 0:
            other = index.owner[entry]
            entry = index.following[entry]
            if index.seen[other] == index.state[1]:
                continue
            index.seen[other] = index.state[1]
            if survivors.by_set[large.group[other]] < limit and _share_a_bucket(large, n, other):
                index.found[count] = survivors.by_set[large.group[other]]
                count += 1
    for rank in np.sort(index.found[:count]):
        similarity = _similarity(large, n, large.number[graph.shingles[rank]])
        if similarity >= large.threshold:
            return rank, similarity
    return -1, 0.0


@numba.njit(cache=True)
def _add_to_index(large: Large, index: _Index, n: int) -> None:
    for cell in _prefix(large, index, n):
        entry = index.state[0]
        index.owner[entry] = n
        index.following[entry] = index.heads[cell]
        index.heads[cell] = entry
        index.state[0] += 1


@numba.njit(cache=True)
def _first_similar(
    graph: Graph, large: Large, survivors: _Survivors, index: _Index, rank: int
) -> tuple[int, float]:
    """Return the first survivor with a document's shingle set or a similar one, or -1.

    What was found once for a set stays the first: survivors are added in order.
    """
    group = graph.shingles[rank]
    if survivors.first[group] >= 0:
        return survivors.first[group], survivors.first_similarity[group]
    first, similarity = survivors.by_set[group], 1.0
    for edge in range(graph.offsets[group], graph.offsets[group + 1]):
        other = survivors.by_set[graph.neighbour[edge]]
        if other >= 0 and (first < 0 or other < first):
            first, similarity = other, graph.similarity[edge]
    number = large.number[group]
    if number >= 0 and rank >= graph.settled:
        limit = first if first >= 0 else rank
        other, value = _first_in_large(graph, large, survivors, index, (number, limit))
        if other >= 0:
            first, similarity = other, value
    survivors.first[group] = first
    survivors.first_similarity[group] = similarity
    return first, similarity


@numba.njit(cache=True)
def _walk(graph: Graph, large: Large, survivors: _Survivors, index: _Index) -> Verdicts:
    count = len(graph.identity)
    witness = np.full(count, -1, np.int64)
    method = np.zeros(count, np.int8)
    similarity = np.full(count, np.nan, np.float64)
    for rank in range(count):
        identity, text, group = graph.identity[rank], graph.text[rank], graph.shingles[rank]
        first = survivors.by_id[identity]
        same_text = survivors.by_text[text]
        if same_text >= 0 and (first < 0 or same_text < first):
            first, method[rank], similarity[rank] = same_text, 1, 1.0
        if group >= 0:
            similar, value = _first_similar(graph, large, survivors, index, rank)
            if similar >= 0 and (first < 0 or similar < first):
                first, method[rank], similarity[rank] = similar, 2, value
        witness[rank] = first
        if first >= 0:
            continue
        survivors.by_id[identity] = rank
        survivors.by_text[text] = rank
        if group >= 0:
            survivors.by_set[group] = rank
            if large.number[group] >= 0:
                _add_to_index(large, index, large.number[group])
    return Verdicts(witness, method, similarity)
