"""Audit of deduplication: sign, compare and search again what decides which documents stay.

Every part is signed again from its texts and has to give the index that is stored, so that what
follows may rest on that index. Every duplicate is compared with its surviving witness by the
readable reference. All survivors that share a band are compared with each other, and none may be
alike.

It holds 17 bytes a document and 25 a duplicate of the corpus (some 60 each while they are sorted),
one part while signing, a round of keys while it searches survivors, and of all texts a block at a
time (see `pairs`).
"""

import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from corpus.documents import (
    DUPLICATE_SCHEMA,
    digest_rows,
    digest_table,
    format_digest,
    text_hash,
)
from corpus.files import remove
from corpus.recipe import Dedup
from corpus.snapshots import Part, Tree
from pipeline.dedup import METHODS, Node, read_nodes
from pipeline.explain import Store
from pipeline.index import (
    ROW_BITS,
    Int64s,
    KeySearch,
    UInt64s,
    column_values,
    distinct,
    find_buckets,
)
from pipeline.keys import SET_BAND
from pipeline.order import find_alike
from pipeline.pairs import Candidates, blocks_of_text, compare, find_candidates, read_texts
from pipeline.parquet import read_columns, read_table
from pipeline.signatures import reference_shingles, sign, write_index
from pipeline.stretch import open_arrow
from pipeline.witnesses import hash_places

_DROP_NAMES = [name for name in DUPLICATE_SCHEMA.names if name != "row"]


def check_index(store: Store) -> Iterator[str]:
    """Sign every document again and compare with the stored index, part after part."""
    with tempfile.TemporaryDirectory() as scratch:
        for part in store.snapshot.part_list():
            yield from _check_part(store, part.name, Tree(scratch))


def _check_part(store: Store, name: str, scratch: Tree) -> Iterator[str]:
    documents = read_table(store.tree.find(f"clean/{name}.parquet"))
    hashes = [text_hash(text) for text in documents["text"].to_pylist()]
    place = documents.schema.get_field_index("text_hash")
    field = documents.schema.field(place)
    again = documents.set_column(place, field, pa.array(hashes, field.type))
    for path in write_index(scratch, name, again, store.recipe.dedup):
        stored, made = open_arrow(store.tree.find(path)), open_arrow(scratch.own(path))
        differs = _first_difference(stored, made)
        if differs is not None:
            yield f"{path}: its documents signed again give another {differs}"
        remove(scratch.own(path))


def _first_difference(stored: pa.Table, made: pa.Table) -> str | None:
    """Say where two tables differ; None where they are equal."""
    if stored.schema != made.schema:
        return "schema"
    if len(stored) != len(made):
        return f"number of rows, {len(made)} and not {len(stored)}"
    return next((name for name in made.schema.names if stored[name] != made[name]), None)


class _Places(NamedTuple):
    """All documents by a hash of where each came from, and whether it was kept.

    Two with one hash (one in 2^64) could show a sound store as wrong, never the reverse.
    """

    hashes: UInt64s
    documents: UInt64s
    kept: npt.NDArray[np.bool_]

    def find(self, rows: list[dict[str, Any]], prefix: str) -> Int64s:
        """Return where each of the documents that rows name stands here; -1: nowhere."""
        if not len(self.hashes):
            return np.full(len(rows), -1)
        wanted = hash_places(
            (row[f"{prefix}snapshot"], row[f"{prefix}id"], row[f"{prefix}file"],
             row[f"{prefix}position"]) for row in rows
        )  # fmt: skip
        at = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return np.where(self.hashes[at] == wanted, at, -1)


def _read_places(store: Store) -> _Places:
    found = [(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.bool_))]
    for number, part in enumerate(store.corpus.parts):
        path = store.tree.find(f"clean/{part.name}.parquet")
        rows = read_columns(path, ["id", "file", "position"]).to_pylist()
        hashes = hash_places(
            (part.snapshot, row["id"], row["file"], row["position"]) for row in rows
        )
        documents = np.arange(len(rows), dtype=np.uint64) | np.uint64(number << ROW_BITS)
        kept = np.ones(len(rows), np.bool_)
        dropped = _dropped_rows(store, part)
        kept[dropped[(dropped >= 0) & (dropped < len(rows))]] = False
        found.append((hashes, documents, kept))
    order = np.argsort(np.concatenate([each[0] for each in found]), kind="stable")
    return _Places(
        np.concatenate([each[0] for each in found])[order],
        np.concatenate([each[1] for each in found])[order],
        np.concatenate([each[2] for each in found])[order],
    )


def _dropped_rows(store: Store, part: Part) -> Int64s:
    path = store.tree.find(f"duplicates/{part.name}.parquet")
    rows: Int64s = column_values(read_columns(path, ["row"]), "row")
    return rows


class _Duplicates(NamedTuple):
    """Duplicates in order, each with its witness, the number of the method and the similarity."""

    own: UInt64s
    witness: UInt64s
    method: npt.NDArray[np.uint8]
    similarity: npt.NDArray[np.float64]

    def cut(self, start: int, stop: int) -> "_Duplicates":
        """Return a run of them."""
        span = slice(start, stop)
        return _Duplicates(
            self.own[span], self.witness[span], self.method[span], self.similarity[span]
        )


def check_duplicates(store: Store) -> Iterator[str]:
    """Check every duplicate against its witness, and that each has its drop row."""
    places = _read_places(store)
    expected = 0
    sound = [_as_duplicates([], (np.empty(0, np.int64), np.empty(0, np.int64)), places)]
    for number, part in enumerate(store.corpus.parts):
        rows = read_table(store.tree.find(f"duplicates/{part.name}.parquet")).to_pylist()
        expected += digest_rows([row[name] for name in _DROP_NAMES] for row in rows)
        own, witness = places.find(rows, ""), places.find(rows, "witness_")
        faults = [
            _fault(row, number, places, (at, of))
            for row, at, of in zip(rows, own.tolist(), witness.tolist(), strict=True)
        ]
        yield from (fault for fault in faults if fault is not None)
        good = np.array([fault is None for fault in faults], np.bool_)
        chosen = [row for row, fault in zip(rows, faults, strict=True) if fault is None]
        sound.append(_as_duplicates(chosen, (own[good], witness[good]), places))
    yield from _check_drop_rows(store, expected)
    yield from _check_pairs(store, _joined(sound))


def _joined(found: list[_Duplicates]) -> _Duplicates:
    return _Duplicates(
        np.concatenate([each.own for each in found]),
        np.concatenate([each.witness for each in found]),
        np.concatenate([each.method for each in found]),
        np.concatenate([each.similarity for each in found]),
    )


def _as_duplicates(
    rows: list[dict[str, Any]], ends: tuple[Int64s, Int64s], places: _Places
) -> _Duplicates:
    similarity = [np.nan if row["similarity"] is None else row["similarity"] for row in rows]
    return _Duplicates(
        places.documents[ends[0]],
        places.documents[ends[1]],
        np.array([METHODS.index(row["method"]) for row in rows], np.uint8),
        np.array(similarity, np.float64),
    )


def _fault(row: dict[str, Any], number: int, places: _Places, found: tuple[int, int]) -> str | None:
    """Say what is wrong with a row of duplicates before any text is read."""
    own, witness = found
    what = (
        f"{row['id']} ({row['file']}, record {row['position']}), duplicate of {row['witness_id']}"
    )
    document = number << ROW_BITS | row["row"]
    if own < 0 or witness < 0 or int(places.documents[own]) != document:
        return f"{what}: there is no such document"
    if not places.kept[witness]:
        return f"{what}: its witness did not survive"
    if row["method"] not in METHODS:
        return f"{what}: there is no method {row['method']}"
    return None


def _check_drop_rows(store: Store, expected: int) -> Iterator[str]:
    columns = [{"method": "rule", "similarity": "value"}.get(name, name) for name in _DROP_NAMES]
    found = 0
    for table in drop_tables(store):
        found += digest_table(table.filter(pc.equal(table["stage"], "dedup")), columns)
    if format_digest(found) != format_digest(expected):
        yield "the drop rows of deduplication are not the rows of its duplicates"


def drop_tables(store: Store) -> Iterator[pa.Table]:
    """Give the drop rows of every part, of its rules and of deduplication."""
    for part in store.snapshot.parts:
        for kind in ("", ".dedup"):
            yield read_table(store.tree.find(f"dropped/{part.name}{kind}.parquet"))


_Text = tuple[Node, str]  # a document and its text


def _check_pairs(store: Store, duplicates: _Duplicates) -> Iterator[str]:
    """Compare duplicates with their witnesses, a block of texts at a time."""
    given = store.tree, store.corpus
    config = store.recipe.dedup
    ends = duplicates.own, duplicates.witness
    for start, stop in blocks_of_text(*given, ends, config.memory_bytes):
        block = duplicates.cut(start, stop)
        documents = distinct(np.concatenate([block.own, block.witness]))
        texts = dict(read_texts(*given, documents))
        nodes = {
            node.document: (node, texts[node.document])
            for node in read_nodes(store.tree, config, store.corpus, documents)
        }
        for own, witness, method, similarity in zip(
            *(each.tolist() for each in block), strict=True
        ):
            pair = nodes[own], nodes[witness]
            for complaint in _check_pair(pair, (METHODS[method], similarity), config):
                yield f"{_describe(pair)}: {complaint}"


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


def check_survivors(store: Store) -> Iterator[str]:
    """Show that no two survivors with one id, text or shingle set, or alike, share a band."""
    corpus = store.corpus
    search = KeySearch(store.tree, corpus)
    for low, high in search.rounds(0, 2**64, store.recipe.dedup.memory_bytes):
        buckets = find_buckets(search.survivors(search.read(low, high)), np.uint64(0))
        values = buckets.band >= SET_BAND
        for number in np.unique(buckets.number[values]).tolist():
            chosen = buckets.document[buckets.number == number]
            yield f"{_ids(store, chosen)}: survive with one id, text or set of shingles"
        candidates = find_candidates(store.tree, corpus, buckets.where(~values))
        for left, right, similarity in _alike(store, candidates):
            names = _ids(store, np.array([left, right], np.uint64))
            yield f"{names}: survive with similarity {similarity:.4f}"


def _alike(store: Store, candidates: Candidates) -> Iterator[tuple[int, int, float]]:
    given = store.tree, store.corpus
    for found in candidates.pairs(store.recipe.dedup.memory_bytes):
        rows = compare(*given, (found[:, 0], found[:, 1]), store.recipe.dedup)
        yield from ((left, right, shared / total) for left, right, shared, total in rows.tolist())
    yield from find_alike(*given, store.recipe.dedup, candidates.large)


def _ids(store: Store, documents: UInt64s) -> str:
    nodes = read_nodes(store.tree, store.recipe.dedup, store.corpus, documents)
    return " and ".join(node.id for node in nodes)
