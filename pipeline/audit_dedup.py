"""Audit of deduplication: sign, compare and search again what decides which documents stay.

Every part is signed again from its texts and has to give the index that is stored, so that what
follows may rest on that index. Every duplicate is compared with its surviving witness by the
readable reference. All survivors that share a band are compared with each other, and none may be
alike.

It holds 25 bytes a duplicate of the corpus and as many a witness, some 60 each while they are
sorted; a task one part while signing, a round of keys while it searches survivors, and of all texts
a block (see `pairs`).
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.documents import DIGEST_MODULUS, DROP_SCHEMA, digest_table, text_hash
from corpus.recipe import Dedup
from corpus.snapshots import Part, Tree
from pipeline.dedup import METHODS, Node, drops_of, read_nodes
from pipeline.explain import Store
from pipeline.fetch import read_texts
from pipeline.index import (
    ROW_BITS,
    Corpus,
    KeySearch,
    UInt64s,
    column_values,
    distinct,
    find_buckets,
    rows_by_part,
)
from pipeline.jobs import HERE, Pool
from pipeline.keys import SET_BAND
from pipeline.order import find_alike
from pipeline.pairs import Candidates, blocks_of_text, compare, find_candidates
from pipeline.parquet import read_columns, read_table
from pipeline.signatures import reference_shingles, sign, write_index
from pipeline.stretch import open_arrow
from pipeline.witnesses import hash_columns

# Where a document of a part is from.
_PLACE = ("id", "file", "position")


def check_index(store: Store, pool: Pool = HERE) -> Iterator[str]:
    """Sign every document again and compare with the stored index."""
    parts = store.snapshot.part_list()
    for problems in pool.map("signatures", _check_part, parts, store.tree, store.recipe.dedup):
        yield from problems


def _check_part(part: Part, tree: Tree, config: Dedup) -> list[str]:
    documents = read_table(tree.find(f"clean/{part.name}.parquet"))
    hashes = [text_hash(text) for text in documents["text"].to_pylist()]
    place = documents.schema.get_field_index("text_hash")
    field = documents.schema.field(place)
    again = documents.set_column(place, field, pa.array(hashes, field.type))
    problems = []
    with tempfile.TemporaryDirectory() as directory:
        scratch = Tree(directory)
        for path in write_index(scratch, part.name, again, config):
            stored, made = open_arrow(tree.find(path)), open_arrow(scratch.own(path))
            differs = _first_difference(stored, made)
            if differs is not None:
                problems.append(f"{path}: its documents signed again give another {differs}")
    return problems


def _first_difference(stored: pa.Table, made: pa.Table) -> str | None:
    """Say where two tables differ; None where they are equal."""
    if stored.schema != made.schema:
        return "schema"
    if len(stored) != len(made):
        return f"number of rows, {len(made)} and not {len(stored)}"
    return next((name for name in made.schema.names if stored[name] != made[name]), None)


class _Duplicates(NamedTuple):
    """Duplicates in order, each with its witness, the number of the method and the similarity.

    A witness is a hash of its place at first, and the document once that is found.
    """

    own: UInt64s
    witness: UInt64s
    method: npt.NDArray[np.uint8]
    similarity: npt.NDArray[np.float64]

    def where(self, chosen: Any) -> "_Duplicates":  # noqa: ANN401 - a slice or a mask
        """Return some of them."""
        return _Duplicates(
            self.own[chosen], self.witness[chosen], self.method[chosen], self.similarity[chosen]
        )


class _Witnesses(NamedTuple):
    """Documents by a hash of their places, in order of these, and whether each was kept.

    Two with one hash (one in 2^64) could show a sound store as wrong, never the reverse.
    """

    hashes: UInt64s
    documents: UInt64s
    kept: npt.NDArray[np.bool_]


_Numbered = tuple[int, Part]  # a part with its place in the corpus


def check_duplicates(store: Store, pool: Pool = HERE) -> Iterator[str]:
    """Check every duplicate against its witness, and that each has its drop row."""
    parts = list(enumerate(store.corpus.parts))
    config = store.recipe.dedup
    read = list(pool.map("duplicates", _read_duplicates, parts, store.tree, config))
    for problems, _, _ in read:
        yield from problems
    if sum(balance for *_, balance in read) % DIGEST_MODULUS:
        yield "the drop rows of deduplication are not the rows of its duplicates"
    found = _joined([each for _, each, _ in read])
    witnesses = _find_witnesses(store, distinct(found.witness), pool)
    at = np.searchsorted(witnesses.hashes, found.witness)
    is_there = np.isin(found.witness, witnesses.hashes)
    survived = is_there.copy()
    survived[is_there] = witnesses.kept[at[is_there]]
    yield from _name(store, found.own[~is_there], "there is no such document")
    yield from _name(store, found.own[is_there & ~survived], "its witness did not survive")
    pairs = found.where(survived)._replace(witness=witnesses.documents[at[survived]])
    given = store.tree, store.corpus
    ends = pairs.own, pairs.witness
    blocks = [
        pairs.where(slice(*span)) for span in blocks_of_text(*given, ends, config.memory_bytes)
    ]
    for problems in pool.map("witnesses", _check_pairs, blocks, *given, config):
        yield from problems


def _joined(found: list[_Duplicates]) -> _Duplicates:
    return _Duplicates(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _read_duplicates(
    given: _Numbered, tree: Tree, config: Dedup
) -> tuple[list[str], _Duplicates, int]:
    """Read the duplicates of a part, each with a hash of its witness's place.

    Return what is wrong with the others, and the digest of all less that of their drop rows.
    """
    number, part = given
    table = read_table(tree.find(f"duplicates/{part.name}.parquet"))
    documents = read_columns(tree.find(f"clean/{part.name}.parquet"), _PLACE)
    faults = [_fault(row, part, documents) for row in table.to_pylist()]
    problems = [fault for fault in faults if fault is not None]
    sound = table.filter(pa.array([fault is None for fault in faults], pa.bool_()))
    duplicates = _Duplicates(
        column_values(sound, "row").astype(np.uint64) | np.uint64(number << ROW_BITS),
        _hash_places([sound[f"witness_{name}"] for name in ("snapshot", *_PLACE)]),
        np.array([METHODS.index(each) for each in sound["method"].to_pylist()], np.uint8),
        sound["similarity"].fill_null(np.nan).to_numpy(),
    )
    balance = digest_table(drops_of(table, part.source, config), DROP_SCHEMA.names)
    for drops in drop_tables(tree, part):
        balance -= digest_table(drops.filter(pc.equal(drops["stage"], "dedup")), DROP_SCHEMA.names)
    return problems, duplicates, balance


def _fault(row: dict[str, Any], part: Part, documents: pa.Table) -> str | None:
    """Say what is wrong with a row of duplicates before any witness is looked for."""
    at = row["row"]
    there = documents.slice(at, 1).to_pylist() if 0 <= at < len(documents) else []
    place = {name: row[name] for name in _PLACE}
    if row["snapshot"] != part.snapshot or there != [place]:
        return f"{_tell(row)}: there is no such document"
    if row["method"] not in METHODS:
        return f"{_tell(row)}: there is no method {row['method']}"
    return None


def _tell(row: Mapping[str, Any]) -> str:
    return (
        f"{row['id']} ({row['file']}, record {row['position']}), duplicate of {row['witness_id']}"
    )


def _name(store: Store, documents: UInt64s, what: str) -> Iterator[str]:
    """Give what is wrong with some duplicates."""
    for number, rows in rows_by_part(documents):
        path = store.tree.find(f"duplicates/{store.corpus.parts[number].name}.parquet")
        asked = set(rows.tolist())
        yield from (
            f"{_tell(row)}: {what}" for row in read_table(path).to_pylist() if row["row"] in asked
        )


def _hash_places(columns: Sequence[pa.ChunkedArray]) -> UInt64s:
    return hash_columns([each.cast(pa.string()) for each in columns])


def _find_witnesses(store: Store, wanted: UInt64s, pool: Pool) -> _Witnesses:
    """Find the documents whose places have these hashes."""
    parts = list(enumerate(store.corpus.parts)) if len(wanted) else []
    found = list(pool.map("places", _find_in_part, parts, store.tree, wanted))
    hashes = np.concatenate([np.empty(0, np.uint64), *(each.hashes for each in found)])
    order = np.argsort(hashes, kind="stable")
    return _Witnesses(
        hashes[order],
        np.concatenate([np.empty(0, np.uint64), *(each.documents for each in found)])[order],
        np.concatenate([np.empty(0, np.bool_), *(each.kept for each in found)])[order],
    )


def _find_in_part(given: _Numbered, tree: Tree, wanted: UInt64s) -> _Witnesses:
    number, part = given
    table = read_columns(tree.find(f"clean/{part.name}.parquet"), _PLACE)
    snapshot = pa.chunked_array([pa.repeat(part.snapshot, len(table))])
    hashes = _hash_places([snapshot, *(table[name] for name in _PLACE)])
    at = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    rows = np.flatnonzero(wanted[at] == hashes)
    path = tree.find(f"duplicates/{part.name}.parquet")
    dropped = column_values(read_columns(path, ["row"]), "row")
    documents = rows.astype(np.uint64) | np.uint64(number << ROW_BITS)
    return _Witnesses(hashes[rows], documents, ~np.isin(rows, dropped))


def drop_tables(tree: Tree, part: Part) -> Iterator[pa.Table]:
    """Give the drop rows of a part, of its rules and of deduplication."""
    for kind in ("", ".dedup"):
        yield read_table(tree.find(f"dropped/{part.name}{kind}.parquet"))


_Text = tuple[Node, str]  # a document and its text


def _check_pairs(duplicates: _Duplicates, tree: Tree, corpus: Corpus, config: Dedup) -> list[str]:
    """Compare duplicates with their witnesses by the texts of both."""
    documents = distinct(np.concatenate([duplicates.own, duplicates.witness]))
    texts = dict(read_texts(tree, corpus, documents))
    nodes = {
        node.document: (node, texts[node.document])
        for node in read_nodes(tree, config, corpus, documents)
    }
    problems = []
    columns = (column.tolist() for column in duplicates)
    for own, witness, method, similarity in zip(*columns, strict=True):
        pair = nodes[own], nodes[witness]
        problems += [
            f"{_describe(pair)}: {complaint}"
            for complaint in _check_pair(pair, (METHODS[method], similarity), config)
        ]
    return problems


def _describe(pair: tuple[_Text, _Text]) -> str:
    own, witness = pair[0][0], pair[1][0]
    return f"{own.id} ({own.file}, record {own.position}), duplicate of {witness.id}"


def _check_pair(
    pair: tuple[_Text, _Text], given: tuple[str, float], config: Dedup
) -> Iterator[str]:
    (own, text), (witness, other) = pair
    method, similarity = given
    if own.scope != witness.scope:
        yield f"they are not to be compared, dedup.scope is {config.scope}"
    if witness >= own:
        yield "its witness comes after it in the order"
    if method == "same_id" and own.id != witness.id:
        yield "their ids differ"
    if method == "exact" and text_hash(text) != text_hash(other):
        yield "their normalized texts differ"
    if method == "minhash":
        found = _similarity(text, other, config)
        if found != similarity or found < config.threshold:
            yield (
                f"their similarity is {found!r}, stored is {similarity!r}, "
                f"the threshold {config.threshold}"
            )


def _similarity(text: str, other: str, config: Dedup) -> float:
    if config.verify == "signature":
        first, second = (sign([each], config).signatures[0] for each in (text, other))
        return int((first == second).sum()) / len(first)
    one, two = (reference_shingles(each, config.ngram) for each in (text, other))
    return len(one & two) / len(one | two)


def check_survivors(store: Store, pool: Pool = HERE) -> Iterator[str]:
    """Show that no two survivors with one id, text or shingle set, or alike, share a band."""
    config = store.recipe.dedup
    shares = config.partitions
    bounds = [2**64 * n // shares for n in range(shares + 1)]
    ranges = list(pairwise(bounds))
    for problems in pool.map("survivors", _search, ranges, store.tree, store.corpus, config):
        yield from problems


def _search(span: tuple[int, int], tree: Tree, corpus: Corpus, config: Dedup) -> list[str]:
    """Name the survivors that are alike by a key of [low, high)."""

    def ids(documents: UInt64s) -> str:
        return " and ".join(node.id for node in read_nodes(tree, config, corpus, documents))

    search = KeySearch(tree, corpus, span)
    problems = []
    for low, high in search.rounds(*span, config.memory_bytes):
        buckets = find_buckets(search.survivors(search.read(low, high)), np.uint64(0))
        values = buckets.band >= SET_BAND
        for number in np.unique(buckets.number[values]).tolist():
            chosen = buckets.document[buckets.number == number]
            problems.append(f"{ids(chosen)}: survive with one id, text or set of shingles")
        candidates = find_candidates(tree, corpus, buckets.where(~values))
        for left, right, similarity in _alike((tree, corpus, config), candidates):
            names = ids(np.array([left, right], np.uint64))
            problems.append(f"{names}: survive with similarity {similarity:.4f}")
    return problems


def _alike(
    given: tuple[Tree, Corpus, Dedup], candidates: Candidates
) -> Iterator[tuple[int, int, float]]:
    tree, corpus, config = given
    for found in candidates.pairs(config.memory_bytes):
        rows = compare(tree, corpus, (found[:, 0], found[:, 1]), config)
        yield from ((left, right, shared / total) for left, right, shared, total in rows.tolist())
    yield from find_alike(tree, corpus, config, candidates.large)
