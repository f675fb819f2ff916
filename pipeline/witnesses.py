"""Witnesses: which documents of a corpus are dropped, and which survivor each of them points at.

A take-down asks two things of all duplicates: is this document one, and whom did that one lead? So
it holds two numbers a duplicate and an order of them, 24 bytes, and no string: a witness is known
by a hash of its place. Two places with one hash (one in 2^64) make a document be judged again that
need not be, which comes to the same verdict.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from corpus.snapshots import Tree
from pipeline.index import ROW_BITS, Corpus, Int64s, UInt64s, column_values
from pipeline.kernels import GOLDEN, SEED, UInt8s, mix
from pipeline.parquet import read_columns
from pipeline.spans import bytes_of

Place = tuple[str, str, str, int]  # snapshot, source, file, position


class Witnesses(NamedTuple):
    """The dropped documents in order, the hash of each one's witness, and the order of these."""

    documents: UInt64s
    witness: UInt64s
    order: Int64s

    def is_dropped(self, document: int) -> bool:
        """Tell whether a document is a duplicate."""
        at = int(np.searchsorted(self.documents, np.uint64(document)))
        return at < len(self.documents) and int(self.documents[at]) == document

    def led_by(self, places: UInt64s) -> UInt64s:
        """Return the documents whose witness is at one of these places, given by their hashes."""
        low = np.searchsorted(self.witness, places, side="left", sorter=self.order)
        high = np.searchsorted(self.witness, places, side="right", sorter=self.order)
        found = [self.order[start:stop] for start, stop in zip(low, high, strict=True)]
        led: UInt64s = self.documents[np.concatenate([np.empty(0, np.int64), *found])]
        return led


def read_witnesses(tree: Tree, corpus: Corpus, removed: Mapping[str, Int64s]) -> Witnesses:
    """Read the duplicates of all parts; `removed` are rows that a part had and has no more."""
    documents, witness = [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    for number, part in enumerate(corpus.parts):
        table = read_columns(tree.find(f"duplicates/{part.name}.parquet"), _COLUMNS)
        rows = column_values(table, "row")
        hashes = _hash_witnesses(table)
        if part.name in removed:
            stays = ~np.isin(rows, removed[part.name])
            rows, hashes = rows_after(rows[stays], removed[part.name]), hashes[stays]
        documents.append(np.uint64(number << ROW_BITS) | rows.astype(np.uint64))
        witness.append(hashes)
    found = np.concatenate(witness)
    return Witnesses(np.concatenate(documents), found, np.argsort(found, kind="stable"))


def rows_after(rows: Int64s, removed: Int64s) -> Int64s:
    """Return the numbers that rows have once others, given in order, are taken out."""
    return rows - np.searchsorted(removed, rows)


def hash_places(places: Iterable[Place]) -> UInt64s:
    """Hash places: uint64, one each."""
    given = [(snapshot, source, file, str(position)) for snapshot, source, file, position in places]
    return hash_columns(pa.array(column, pa.string()) for column in _transpose(given))


_COLUMNS = ("row", "witness_id", "witness_snapshot", "witness_file", "witness_position")


def _transpose(rows: list[tuple[str, str, str, str]]) -> Iterator[list[str]]:
    return ([row[n] for row in rows] for n in range(4))


def _hash_witnesses(table: pa.Table) -> UInt64s:
    """Hash the places of the witnesses of a table of duplicates."""
    source = pc.list_element(pc.split_pattern(table["witness_id"], "/", max_splits=1), 0)
    position = table["witness_position"].cast(pa.string())
    return hash_columns([table["witness_snapshot"], source, table["witness_file"], position])


def hash_columns(columns: Iterable[pa.Array | pa.ChunkedArray]) -> UInt64s:
    """Hash the rows of columns of strings: uint64, one each."""
    hashes: UInt64s | None = None
    for column in columns:
        text, offsets = bytes_of(column)
        if hashes is None:
            hashes = np.zeros(len(offsets) - 1, np.uint64)
        _hash_into(hashes, text, offsets)
    assert hashes is not None
    return hashes


@numba.njit(cache=True)
def _hash_into(hashes: UInt64s, text: UInt8s, offsets: Int64s) -> None:
    for row in range(len(hashes)):
        value = hashes[row] ^ np.uint64(SEED)
        for i in range(offsets[row], offsets[row + 1]):
            value = (value ^ np.uint64(text[i])) * np.uint64(GOLDEN)
        hashes[row] = mix(value)
