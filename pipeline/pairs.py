"""Pairs: which documents may be alike, and which of them verifiably are.

*Group* takes one range of the index's key space and finds the members of each bucket. *Verify*
compares the shingle sets of the candidates themselves (or, as an option, their signatures) and
keeps the pairs at or above the threshold. Documents with identical shingle sets share every band
and have similarity 1: they collapse to one before pairs are formed. No bucket is cut, and nothing
depends on the number of partitions.

A bucket of n different sets has n^2/2 pairs. One over the budget is not paired: group lists its
members, verify writes down their sets, and the walk compares each with the survivors before it,
which comes to the same verdicts (see `walk`). So pairs are at most some hundreds a document and
band, and what is done here grows with the number of documents only.

Parts of earlier snapshots are settled: their index is searched for the keys of the new parts, never
loaded, and only their survivors can be a witness, so only those take part.

Group holds a round of keys and of pairs at a time; verify its share of the pairs and a block of
texts. A pair may be written once for every round that finds it; verify takes it once.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numba
import numpy as np
import pyarrow as pa

from corpus.files import writing
from corpus.recipe import MEMORY_BYTES, Dedup
from corpus.snapshots import Tree
from pipeline.fetch import Pairs, Texts, read_rounds, share_starts
from pipeline.index import (
    Buckets,
    Corpus,
    Int64s,
    KeySearch,
    UInt64s,
    column_values,
    distinct,
    distinct_rows,
    find_buckets,
    hash_words,
    number_equal,
    read_column,
    within,
)
from pipeline.jobs import Output
from pipeline.kernels import UInt32s
from pipeline.keys import SET_BAND
from pipeline.signatures import shingle_sets, sign, write_arrow
from pipeline.stretch import open_arrow

# Raised by hand when the edges of a corpus change.
VERSION = 2

# Text that a block of verification holds, and pairs that a round of grouping forms, at the default
# of `memory_bytes`. Guesses: some hundred megabytes of working set.
_BLOCK_BYTES = 64 * 2**20
_PAIRS_PER_ROUND = 8_000_000
# A bucket with more pairs is large: that of 257 different sets. A guess: it bounds the pairs of a
# document by 255 a band, and few buckets of real text are so varied.
_PAIRS_PER_BUCKET = 2**15
# Candidate pairs of one verify task, each counted in every partition that finds it. Guess.
PAIRS_PER_TASK = 1_000_000

PAIR_SCHEMA = pa.schema([("left", pa.uint64()), ("right", pa.uint64())])
VERIFIED_SCHEMA = pa.schema([*PAIR_SCHEMA, ("shared", pa.int64()), ("total", pa.int64())])
MEMBER_SCHEMA = pa.schema([("document", pa.uint64()), ("first", pa.uint64())])
LARGE_SCHEMA = pa.schema([("bucket", pa.int64()), ("document", pa.uint64())])
SETS_SCHEMA = pa.schema([("document", pa.uint64()), ("tokens", pa.large_list(pa.uint64()))])


@contextmanager
def _writing_tables(tree: Tree, schemas: Mapping[str, pa.Schema]) -> Iterator[list[Any]]:
    """Give a writer of an Arrow file for each path; the files appear when the block ends well."""
    with ExitStack() as stack:
        writers = []
        for path, schema in schemas.items():
            stream = stack.enter_context(writing(tree.own(path)))
            writers.append(stack.enter_context(pa.ipc.new_file(stream, schema)))
        yield writers


def _write_columns(writer: Any, schema: pa.Schema, *columns: Any) -> None:  # noqa: ANN401 - Arrow's
    writer.write_table(pa.table([np.ascontiguousarray(each) for each in columns], schema=schema))


def group_partition(
    tree: Tree,
    name: str,
    corpus: Corpus,
    share: tuple[int, int],
    memory_bytes: int = MEMORY_BYTES,
) -> Output:
    """Find the candidate pairs and the members of shared values in one range of the key space."""
    partition, partitions = share
    schemas = {
        f"work/group/{name}.members.arrow": MEMBER_SCHEMA,
        f"work/group/{name}.pairs.arrow": PAIR_SCHEMA,
        f"work/group/{name}.rights.arrow": PAIR_SCHEMA,
        f"work/group/{name}.large.arrow": LARGE_SCHEMA,
    }
    counts = {"members": 0, "pairs": 0, "large_buckets": 0, "large_members": 0}
    low, high = partition * 2**64 // partitions, (partition + 1) * 2**64 // partitions
    search = KeySearch(tree, corpus, (low, high))
    with _writing_tables(tree, schemas) as (of_members, of_pairs, of_rights, of_large):
        for span in search.rounds(low, high, memory_bytes):
            buckets = find_buckets(search.read(*span), corpus.first_new)
            values = buckets.band >= SET_BAND
            members = _members(buckets.where(values))
            _write_columns(of_members, MEMBER_SCHEMA, members[:, 0], members[:, 1])
            candidates = find_candidates(tree, corpus, buckets.where(~values))
            for pairs in candidates.pairs(memory_bytes):
                by_right = pairs[np.argsort(pairs[:, 1], kind="stable")]
                _write_columns(of_pairs, PAIR_SCHEMA, pairs[:, 0], pairs[:, 1])
                _write_columns(of_rights, PAIR_SCHEMA, by_right[:, 0], by_right[:, 1])
                counts["pairs"] += len(pairs)
            number, document = candidates.large
            _write_columns(of_large, LARGE_SCHEMA, number + counts["large_buckets"], document)
            counts["members"] += len(members)
            counts["large_buckets"] += int(number.max(initial=-1)) + 1
            counts["large_members"] += len(document)
    return Output(tuple(schemas), counts)


def _members(buckets: Buckets) -> UInt64s:
    """Return the members of buckets, each with the first of its bucket: [members, 2], distinct."""
    begins = np.flatnonzero(np.diff(buckets.number, prepend=-1))
    sizes = np.diff(np.append(begins, len(buckets.number)))
    first = np.repeat(buckets.document[begins], sizes)
    return distinct_rows(np.stack([buckets.document, first], axis=1))


class Candidates(NamedTuple):
    """The MinHash buckets, with one document, the least, for each shingle set.

    documents: those in buckets, in order; member: places in it, bucket after bucket, each in order;
    bounds: [buckets + 1] into member; sizes: how many pairs a bucket has; first_new: the place of
    the first document that is not settled. Settled ones are not paired with each other.
    """

    documents: UInt64s
    member: UInt64s
    bounds: Int64s
    sizes: Int64s
    first_new: int

    def pairs(self, memory_bytes: int = MEMORY_BYTES) -> Iterator[UInt64s]:
        """Give the pairs of all but large buckets, a bounded number at a time: [pairs, 2].

        Rounds are sorted and without repetition, each for itself; the lesser document is first.
        """
        small = np.where(self.sizes > _PAIRS_PER_BUCKET, 0, self.sizes)
        totals = np.cumsum(small)
        most = within(memory_bytes, _PAIRS_PER_ROUND)
        start, before = 0, 0
        while before < totals.max(initial=0):
            stop = int(np.searchsorted(totals, before + most, side="right"))
            stop = max(stop, start + 1)
            before = totals[stop - 1]
            packed = distinct(_pair_buckets(self, small, start, stop))
            ends = (packed >> np.uint64(32), packed & np.uint64(2**32 - 1))
            yield self.documents[np.stack(ends, axis=1)]
            start = stop

    @property
    def large(self) -> tuple[Int64s, UInt64s]:
        """The members of buckets over the budget: the bucket's number, from 0, and the document."""
        chosen = np.flatnonzero(self.sizes > _PAIRS_PER_BUCKET)
        spans = [self.member[self.bounds[n] : self.bounds[n + 1]] for n in chosen.tolist()]
        places = np.concatenate([np.empty(0, np.uint64), *spans])
        number = np.repeat(np.arange(len(chosen)), [len(span) for span in spans])
        return number.astype(np.int64), self.documents[places]


def find_candidates(tree: Tree, corpus: Corpus, buckets: Buckets) -> Candidates:
    """Collapse documents with one shingle set and count the pairs of every bucket."""
    documents, places = np.unique(buckets.document, return_inverse=True)
    words = hash_words(read_column(tree, corpus, documents, "set_hash"))
    sets = number_equal(*words.T)[places]
    order = np.lexsort((places, sets, buckets.number))
    number, sets, member = buckets.number[order], sets[order], places[order]
    first = np.ones(len(number), np.bool_)
    first[1:] = (number[1:] != number[:-1]) | (sets[1:] != sets[:-1])
    number, member = number[first], member[first]
    # What stands for a set is the same in every bucket, as equal sets share all of them.
    order = np.lexsort((member, number))
    number, member = number[order], member[order]
    bounds = np.append(np.flatnonzero(np.diff(number, prepend=-1)), len(number)).astype(np.int64)
    first_new = int(np.searchsorted(documents, corpus.first_new))
    all_, settled = np.diff(bounds), np.diff(np.append(0, np.cumsum(member < first_new))[bounds])
    sizes = all_ * (all_ - 1) // 2 - settled * (settled - 1) // 2
    return Candidates(documents, member.astype(np.uint64), bounds, sizes, first_new)


@numba.njit(cache=True)
def _pair_buckets(candidates: Candidates, sizes: Int64s, start: int, stop: int) -> UInt64s:
    """Return the pairs of a run of buckets, two places in one number; size 0 leaves one out."""
    pairs = np.empty(sizes[start:stop].sum(), np.uint64)
    used = 0
    for bucket in range(start, stop):
        if sizes[bucket] == 0:
            continue
        for j in range(candidates.bounds[bucket], candidates.bounds[bucket + 1]):
            if candidates.member[j] < candidates.first_new:
                continue  # the later of two settled ones: no new one lies before it
            for i in range(candidates.bounds[bucket], j):
                pairs[used] = candidates.member[i] << np.uint64(32) | candidates.member[j]
                used += 1
    return pairs


class Tokens(NamedTuple):
    """Sorted sets of numbers, one a document; set n is values[offsets[n] : offsets[n + 1]]."""

    values: UInt64s
    offsets: Int64s


def similarity_total(config: Dedup) -> int:
    """Return what the common tokens of two sets are a share of; 0 for the size of their union."""
    return 0 if config.verify == "exact" else config.bands * config.rows


def read_tokens(texts: Texts, documents: UInt64s, config: Dedup) -> Tokens:
    """Return what documents, given in order, are compared by.

    These are the hashes of the shingles, or every position of the signature with its value, so that
    equal positions are common tokens.
    """
    found = texts.read(documents)
    if config.verify == "exact":
        return Tokens(*shingle_sets(found, config.ngram))
    return signature_tokens(sign(found, config).signatures)


def signature_tokens(signatures: UInt32s) -> Tokens:
    """Return signatures, [documents, positions], as sets of equal size: position and value."""
    documents, positions = signatures.shape
    places = np.arange(positions, dtype=np.uint64) << np.uint64(32)
    offsets = np.arange(documents + 1, dtype=np.int64) * positions
    return Tokens((signatures | places).reshape(-1), offsets)


def compare(
    tree: Tree,
    corpus: Corpus,
    pairs: tuple[UInt64s, UInt64s],
    config: Dedup,
    texts: Texts | None = None,
) -> Int64s:
    """Compare pairs by their texts: rows (left, right, shared, total) of those that are alike."""
    texts = texts or Texts(tree, corpus)
    alike = [np.empty((0, 4), np.int64)]
    for start, stop in blocks_of_text(tree, corpus, pairs, config.memory_bytes):
        left, right = (ends[start:stop] for ends in pairs)
        documents = distinct(np.concatenate([left, right]))
        tokens = read_tokens(texts, documents, config)
        first, second = np.searchsorted(documents, left), np.searchsorted(documents, right)
        shared = _count_shared(tokens.values, tokens.offsets, first, second)
        sizes = np.diff(tokens.offsets)
        union = sizes[first] + sizes[second] - shared
        fixed = similarity_total(config)
        total = np.full(len(left), fixed, np.int64) if fixed else union
        chosen = shared / np.maximum(total, 1) >= config.threshold
        rows = np.stack([left.astype(np.int64), right.astype(np.int64), shared, total], axis=1)
        alike.append(rows[chosen])
    return np.concatenate(alike)


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


def verify_share(
    tree: Tree,
    name: str,
    config: Dedup,
    corpus: Corpus,
    share: tuple[int, int, Sequence[str]],
    fetched: Sequence[str] = (),
) -> Output:
    """Keep the candidate pairs of this task that are alike; write the sets of large buckets.

    `share` is the task's number, how many there are, and the names of the group tasks; `fetched`
    are the files of texts, where they were fetched.
    """
    mine = _pairs_of(tree, *share)
    texts = Texts(tree, corpus, share[0], fetched)
    rows = compare(tree, corpus, mine, config, texts)
    paths = (f"work/verify/{name}.arrow", f"work/verify/{name}.sets.arrow")
    columns = [rows[:, 0].astype(np.uint64), rows[:, 1].astype(np.uint64), rows[:, 2], rows[:, 3]]
    write_arrow(tree.own(paths[0]), pa.table([c.copy() for c in columns], schema=VERIFIED_SCHEMA))
    documents = _large_members_of(tree, *share)
    with _writing_tables(tree, {paths[1]: SETS_SCHEMA}) as (of_sets,):
        ends = documents, documents
        for start, stop in blocks_of_text(tree, corpus, ends, config.memory_bytes):
            tokens = read_tokens(texts, documents[start:stop], config)
            sets = pa.LargeListArray.from_arrays(tokens.offsets, tokens.values)
            of_sets.write_table(pa.table([documents[start:stop], sets], schema=SETS_SCHEMA))
    counts = {"compared": len(mine.left), "verified": len(rows), "large_members": len(documents)}
    return Output(paths, counts)


def _pairs_of(tree: Tree, number: int, tasks: int, groups: Sequence[str]) -> Pairs:
    """Return this task's share of all pairs, once each, however many bands they share.

    Tasks take ranges of the left document, so that each reads neighbouring rows.
    """
    rounds = read_rounds(tree, groups, "pairs")
    starts = share_starts(rounds, tasks)
    low, is_last = starts[number], number + 1 == tasks
    mine = [np.empty((0, 2), np.uint64)]
    for left, right in rounds:
        start = int(np.searchsorted(left, low))
        stop = len(left) if is_last else int(np.searchsorted(left, starts[number + 1]))
        mine.append(np.stack([left[start:stop], right[start:stop]], axis=1))
    pairs = distinct_rows(np.concatenate(mine))
    return Pairs(pairs[:, 0], pairs[:, 1])


def _large_members_of(tree: Tree, number: int, tasks: int, groups: Sequence[str]) -> UInt64s:
    """Return this task's share of the documents in large buckets, in order."""
    found = [
        column_values(open_arrow(tree.own(f"work/group/{group}.large.arrow")), "document")
        for group in groups
    ]
    documents = distinct(np.concatenate([np.empty(0, np.uint64), *found]))
    return documents[len(documents) * number // tasks : len(documents) * (number + 1) // tasks]


def blocks_of_text(
    tree: Tree, corpus: Corpus, pairs: tuple[UInt64s, UInt64s], memory_bytes: int
) -> Iterator[tuple[int, int]]:
    """Cut pairs into runs whose documents hold a bounded amount of text."""
    left, right = pairs
    limit = within(memory_bytes, _BLOCK_BYTES)
    documents = distinct(np.concatenate([left, right]))
    sizes = read_column(tree, corpus, documents, "text_bytes").to_numpy()
    first, second = np.searchsorted(documents, left), np.searchsorted(documents, right)
    yield from pairwise([*_block_starts(first, second, sizes, limit).tolist(), len(left)])


@numba.njit(cache=True)
def _block_starts(first: Int64s, second: Int64s, sizes: Int64s, limit: int) -> Int64s:
    starts = [0 for _ in range(min(len(first), 1))]
    block_of = np.full(len(sizes), -1, np.int64)
    held = 0
    for pair in range(len(first)):
        if held > limit:
            starts.append(pair)
            held = 0
        for document in (first[pair], second[pair]):
            if block_of[document] != len(starts):
                block_of[document] = len(starts)
                held += sizes[document]
    return np.array(starts)
