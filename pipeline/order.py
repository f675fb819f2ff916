"""Order: the documents that have an edge, as arrays in the total order, ready for the walk.

The order is delivery, preference, text hash, then (id, file, position). The first three have a
fixed size and are sorted as numbers; the strings are compared only where all of those are equal.
Ids, texts and shingle sets become group numbers within their scope. Which files of group and verify
say what is known here and nowhere else.

It costs about 150 bytes a document that has an edge, its id included, and 40 bytes a verified pair;
the sets of large buckets stay in their mapped files. Documents without an edge are never read.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline.components import Found, documents_of_share
from pipeline.fetch import Texts
from pipeline.index import (
    ROW_BITS,
    Corpus,
    Int64s,
    UInt64s,
    column_values,
    distinct,
    hash_words,
    number_equal,
    read_column,
)
from pipeline.pairs import blocks_of_text, read_tokens, similarity_total
from pipeline.preference import scope_of
from pipeline.stretch import open_arrow
from pipeline.walk import Graph, Int32s, Large, adjacency, chunks_of, walk

Float64s = npt.NDArray[np.float64]
_Sets = Iterable[tuple[UInt64s, Int64s, UInt64s]]  # documents, offsets and tokens of a chunk


class Work(NamedTuple):
    """What group and verify found about the documents of a share, or about all.

    documents: those that have an edge, in order; pairs: the files of verified pairs; large: rows
    (bucket, document) of the large buckets; sets: the files with the sets of their members. The
    files are of all documents.
    """

    documents: UInt64s
    pairs: tuple[str, ...]
    large: tuple[Int64s, UInt64s]
    sets: tuple[str, ...]


class Ordered(NamedTuple):
    """The documents that have an edge, in the order of their numbers and in the total order.

    documents, sets, places: by number: the document, its shingle set's number or -1, and its table
    row (id, file, position); order: where among these each of the total order is; identity, text,
    shingles: group numbers in the total order.
    """

    documents: UInt64s
    sets: Int32s
    places: pa.Table
    order: Int64s
    identity: Int32s
    text: Int32s
    shingles: Int32s

    def document(self, ranks: Int64s) -> UInt64s:
        """Return the documents at these places of the total order."""
        return self.documents[self.order[ranks]]

    def sets_of(self, documents: UInt64s) -> Int32s:
        """Return the numbers of the shingle sets of documents that have one."""
        found = self.sets[np.searchsorted(self.documents, documents)]
        assert (found >= 0).all()
        return found


def read_work(tree: Tree, tasks: Found, share: int) -> Work:
    """Read what the tasks of group and verify found, of one share where there are several."""
    large: tuple[list[Int64s], list[UInt64s]] = ([np.empty(0, np.int64)], [np.empty(0, np.uint64)])
    buckets = 0
    for group in tasks.groups:
        table = open_arrow(tree.own(f"work/group/{group}.large.arrow"))
        numbers = column_values(table, "bucket")
        large[0].append(numbers + buckets)
        large[1].append(column_values(table, "document"))
        buckets += int(numbers.max(initial=-1)) + 1
    bucket, member = np.concatenate(large[0]), np.concatenate(large[1])
    pairs = tuple(tree.own(f"work/verify/{name}.arrow") for name in tasks.checks)
    if tasks.dealt is None:
        documents = _all_documents(tree, tasks.groups, pairs, member)
    else:
        documents = documents_of_share(tree, tasks.dealt, share)
        mine = _is_among(documents, member)
        bucket, member = bucket[mine], member[mine]
    sets = tuple(tree.own(f"work/verify/{name}.sets.arrow") for name in tasks.checks)
    return Work(documents, pairs, (bucket, member), sets)


def _all_documents(
    tree: Tree, groups: Sequence[str], pairs: Iterable[str], member: UInt64s
) -> UInt64s:
    found = [member]
    for group in groups:
        members = open_arrow(tree.own(f"work/group/{group}.members.arrow"))
        found.append(distinct(column_values(members, "document")))
    for path in pairs:
        table = open_arrow(path)
        found += [distinct(column_values(table, side)) for side in ("left", "right")]
    return distinct(np.concatenate(found))


def _is_among(documents: UInt64s, asked: UInt64s) -> npt.NDArray[np.bool_]:
    """Tell which of some documents are among others, which are given in order."""
    if not len(documents):
        return np.zeros(len(asked), np.bool_)
    places = np.minimum(np.searchsorted(documents, asked), len(documents) - 1)
    return documents[places] == asked  # type: ignore[no-any-return]


def order_documents(tree: Tree, corpus: Corpus, config: Dedup, documents: UInt64s) -> Ordered:
    """Read what decides on distinct documents, given in order of number, and order them."""
    part = (documents >> np.uint64(ROW_BITS)).astype(np.int64)
    scope = _scopes(corpus, config)[part]
    delivery = np.array([part.position for part in corpus.parts], np.int64)[part]
    text = hash_words(read_column(tree, corpus, documents, "text_hash"))
    preference: list[UInt64s] = []
    if config.prefer:
        preference = [*hash_words(read_column(tree, corpus, documents, "preference")).T]
    ids = read_column(tree, corpus, documents, "id").cast(pa.large_string()).combine_chunks()
    places = pa.table(
        {
            "id": ids,
            "file": read_column(tree, corpus, documents, "file").dictionary_encode(),
            "position": read_column(tree, corpus, documents, "position"),
        }
    )
    order = sort_places((delivery, *preference, *text.T), places)
    texts = _numbers(*text.T, scope)[order]
    del text, preference
    codes = ids.dictionary_encode().indices.to_numpy()
    identities = _numbers(codes, scope)[order]
    sets = _number_sets(tree, corpus, documents, scope)
    return Ordered(documents, sets, places, order, identities, texts, sets[order])


def _numbers(*columns: npt.NDArray[np.generic]) -> Int32s:
    """Number equal rows alike."""
    if len(columns[0]) >= 2**31:
        raise ValueError(
            f"{len(columns[0]):,} documents have an edge, 2^31 is the limit of one resolve: "
            "deliver the corpus in several refreshes"
        )
    return number_equal(*_varying(columns)).astype(np.int32)


def _scopes(corpus: Corpus, config: Dedup) -> Int64s:
    """Return the number of the scope of each part."""
    names = [scope_of(part.snapshot, part.source, config) for part in corpus.parts]
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], np.int64)


def _varying(columns: Iterable[npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
    """Leave out columns that have one value only, but for the first column."""
    first, *others = columns
    return [first, *(each for each in others if len(each) and (each != each[0]).any())]


def sort_places(columns: Sequence[npt.NDArray[np.generic]], places: pa.Table) -> Int64s:
    """Return the order by columns of numbers, and where all are equal by (id, file, position)."""
    keys = _varying(columns)
    order = np.lexsort(keys[::-1]).astype(np.int64)
    begins = np.ones(len(order) + 1, np.bool_)
    begins[1:-1] = False
    for key in keys:
        begins[1:-1] |= key[order[1:]] != key[order[:-1]]
    tied = ~(begins[:-1] & begins[1:])
    if tied.any():
        rows = order[tied]
        table = places.take(pa.array(rows))
        strings = {"run": np.cumsum(begins[:-1])[tied]} | {
            name: table[name].cast(pa.large_string()) for name in ("id", "file")
        }
        table = pa.table(strings | {"position": table["position"]})
        names = [(name, "ascending") for name in table.column_names]
        order[tied] = rows[pc.sort_indices(table, sort_keys=names).to_numpy()]
    return order


def _number_sets(tree: Tree, corpus: Corpus, documents: UInt64s, scope: Int64s) -> Int32s:
    column = read_column(tree, corpus, documents, "set_hash")
    has_set = pc.is_valid(column).to_numpy()
    words = hash_words(column)[has_set]
    numbers = np.full(len(documents), -1, np.int32)
    numbers[has_set] = _numbers(*words.T, scope[has_set])
    return numbers


def make_graph(ordered: Ordered, work: Work, corpus: Corpus, config: Dedup) -> Graph:
    """Return the documents with the verified pairs of their sets."""
    scopes = _scopes(corpus, config)
    ends: list[tuple[Int32s, Int32s]] = [(np.empty(0, np.int32), np.empty(0, np.int32))]
    similarity = [np.empty(0)]
    for path in work.pairs:
        table = open_arrow(path)
        left, right = column_values(table, "left"), column_values(table, "right")
        one, other = (scopes[(e >> np.uint64(ROW_BITS)).astype(np.int64)] for e in (left, right))
        # Keys of different scopes can be equal by chance, one in 2^64.
        mine = (one == other) & _is_among(ordered.documents, left)
        ends.append((ordered.sets_of(left[mine]), ordered.sets_of(right[mine])))
        shares = column_values(table, "shared") / column_values(table, "total")
        similarity.append(shares[mine])
    sets = int(ordered.sets.max(initial=-1)) + 1
    left_sets, right_sets = (np.concatenate(each) for each in zip(*ends, strict=True))
    return Graph(
        ordered.identity,
        ordered.text,
        ordered.shingles,
        *adjacency(left_sets, right_sets, np.concatenate(similarity), sets),
        int((ordered.documents < corpus.first_new).sum()),
    )


def gather_large(ordered: Ordered, graph: Graph, work: Work, config: Dedup) -> Large:
    """Return the members of large buckets with their sets, which stay in mapped files."""
    documents = distinct(work.large[1])
    number = np.full(len(graph.offsets) - 1, -1, np.int64)
    group = ordered.sets_of(documents).astype(np.int64)
    number[group] = np.arange(len(documents))
    return _large(
        (number, group.astype(np.int64)), documents, work.large, (_stored_sets(work.sets), config)
    )


def _stored_sets(paths: Iterable[str]) -> _Sets:
    for path in paths:
        for batch in open_arrow(path).to_batches():
            tokens = batch["tokens"]
            yield batch["document"].to_numpy(), tokens.offsets.to_numpy(), tokens.values.to_numpy()


def _large(
    numbers: tuple[Int64s, Int64s],
    documents: UInt64s,
    rows: tuple[Int64s, UInt64s],
    given: tuple[_Sets, Dedup],
) -> Large:
    sets, config = given
    where = np.zeros((3, len(documents)), np.int64)
    chunks: list[UInt64s] = []
    for of, offsets, tokens in sets:
        mine = _is_among(documents, of)
        if mine.any():
            places = np.searchsorted(documents, of[mine])
            where[0, places] = len(chunks)
            where[1, places] = offsets[:-1][mine]
            where[2, places] = offsets[1:][mine]
            chunks.append(tokens)
    bucket, document = rows
    order = np.lexsort((bucket, document))
    starts = np.searchsorted(document[order], documents)
    total = similarity_total(config)
    return Large(
        numbers[0],
        numbers[1],
        chunks_of(chunks),
        where[0],
        where[1],
        where[2],
        np.append(starts, len(document)).astype(np.int64),
        bucket[order],
        config.threshold,
        total,
    )


def find_alike(
    tree: Tree, corpus: Corpus, config: Dedup, rows: tuple[Int64s, UInt64s]
) -> Iterator[tuple[int, int, float]]:
    """Give documents of large buckets that are like an earlier one that is like none before it.

    `rows` are (bucket, document). There is none exactly if no two of a bucket are alike.
    """
    documents = distinct(rows[1])
    each = np.arange(len(documents))
    numbers = each.astype(np.int32)
    sets = []
    ends, texts = (documents, documents), Texts(tree, corpus)
    for start, stop in blocks_of_text(tree, corpus, ends, config.memory_bytes):
        tokens = read_tokens(texts, documents[start:stop], config)
        sets.append((documents[start:stop], tokens.offsets, tokens.values))
    large = _large((each, each), documents, rows, (sets, config))
    none = adjacency(numbers[:0], numbers[:0], np.empty(0), len(documents))
    found = walk(Graph(numbers, numbers, numbers, *none, 0), large)
    for rank in np.flatnonzero(found.witness >= 0).tolist():
        witness = int(documents[found.witness[rank]])
        yield int(documents[rank]), witness, float(found.similarity[rank])
