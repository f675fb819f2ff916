"""Clusters: how many records each kept document stands for.

A cluster is a survivor with the documents that were dropped in its favour. Its size is a query over
the duplicates, never stored: up-sampling by it ("rehydration", FineWeb-2, Penedo et al. 2025) is a
choice of training, not of the corpus.

Every table of duplicates is read once. Where there are many duplicates, survivors are dealt by a
hash of their ids to scratch files in the directory for temporary files, and counted file by file.
"""

import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.documents import DUPLICATE_SCHEMA
from corpus.files import writing
from corpus.snapshots import PartEntry, Snapshot, Tree
from pipeline.dedup import METHODS
from pipeline.explain import Store
from pipeline.index import look_at
from pipeline.parquet import read_columns

_LARGEST = 10
_NAMES = ("id", "snapshot", "file", "position")
_WITNESS = tuple(f"witness_{name}" for name in _NAMES)
_SURVIVORS = pa.schema(
    [
        DUPLICATE_SCHEMA.field(column).with_name(name)
        for column, name in zip(_WITNESS, _NAMES, strict=True)
    ]
)
# Duplicates whose survivors are counted at a time, some hundreds of bytes each, and the files they
# are dealt to at most, which are open at once. Guesses.
_ROWS, _FILES = 4_000_000, 512
# Tables that are read before their rows are dealt: 64 MB of survivors, about. Guess.
_PARTS_AT_A_TIME = 32


class Sizes(NamedTuple):
    """How many clusters of two or more there are.

    `bins` counts those of n to 2n - 1 records by n, a power of two; `largest` has the largest few,
    each as id, snapshot, file and position of the survivor, and its number of records.
    """

    clusters: int
    bins: Mapping[int, int]
    largest: Sequence[tuple[str, str, str, int, int]]


def with_duplicates(snapshot: Snapshot) -> tuple[list[PartEntry], int]:
    """Return the parts that have duplicates, and how many duplicates there are."""
    parts = [part for part in snapshot.parts if any(map(part.dropped.get, METHODS))]
    return parts, sum(part.dropped.get(method, 0) for part in parts for method in METHODS)


def cluster_sizes(store: Store) -> Iterator[pa.Table]:
    """Give the clusters of two or more in tables, each cluster in one of them.

    The columns are `id`, `snapshot`, `file` and `position` of the survivor, in order of which the
    rows of a table are, and `records`.
    """
    parts, duplicates = with_duplicates(store.snapshot)
    return count_parts(store.tree, [part.name for part in parts], files_for(duplicates))


def files_for(duplicates: int) -> int:
    """Return how many scratch files keep each small; fewer than two are none."""
    return min(_FILES, math.ceil(duplicates / _ROWS))


def count_parts(tree: Tree, parts: Sequence[str], files: int) -> Iterator[pa.Table]:
    """Give the clusters of some parts by way of so many scratch files."""
    for survivors in _deal(_read(tree, parts), files):
        counted = survivors.group_by(list(_NAMES)).aggregate([([], "count_all")])
        ordered = counted.sort_by([(name, "ascending") for name in _NAMES])
        records = pa.array(ordered["count_all"].to_numpy() + 1)
        yield ordered.drop_columns("count_all").append_column("records", records)


def measure_sizes(tables: Iterable[pa.Table]) -> Sizes:
    """Return the distribution of the sizes in tables of `cluster_sizes`."""
    clusters, bins, largest = 0, Counter[int](), []
    for table in tables:
        sizes = table["records"].to_numpy()
        exponents, counts = np.unique(np.frexp(sizes)[1] - 1, return_counts=True)
        bins.update(
            {2**each: n for each, n in zip(exponents.tolist(), counts.tolist(), strict=True)}
        )
        clusters += len(sizes)
        rows = table.take(np.argsort(-sizes, kind="stable")[:_LARGEST]).to_pylist()
        largest += [tuple(row.values()) for row in rows]
        largest = sorted(largest, key=_by_size)[:_LARGEST]
    bounds = [2**each for each in range(1, max(bins, default=1).bit_length())]
    return Sizes(clusters, {bound: bins[bound] for bound in bounds}, largest)


def _by_size(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return -row[-1], *row


def _read(tree: Tree, parts: Sequence[str]) -> Iterator[pa.Table]:
    """Give the survivors that the duplicates of some parts at a time name."""

    def read(part: str) -> pa.Table:
        table = read_columns(tree.find(f"duplicates/{part}.parquet"), _WITNESS)
        return table.select(_WITNESS).rename_columns(list(_NAMES))

    for start in range(0, len(parts), _PARTS_AT_A_TIME):
        yield pa.concat_tables(look_at(tree, read, parts[start : start + _PARTS_AT_A_TIME]))


def _deal(tables: Iterator[pa.Table], count: int) -> Iterator[pa.Table]:
    """Give all rows of some tables as so many others, the rows of an id in one of them."""
    if count < 2:
        yield pa.concat_tables([_SURVIVORS.empty_table(), *tables])
        return
    with tempfile.TemporaryDirectory() as directory:
        paths = [str(Path(directory, str(number))) for number in range(count)]
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with ExitStack() as stack:
            writers = [
                stack.enter_context(pa.ipc.new_file(path, _SURVIVORS, options=options))
                for path in paths
            ]
            for table in tables:
                _append(writers, table)
        for path in paths:
            with pa.OSFile(path) as stream:
                yield pa.ipc.open_file(stream).read_all()


def _append(writers: Sequence[pa.ipc.RecordBatchFileWriter], table: pa.Table) -> None:
    hashes = [crc32(each.encode()) for each in table["id"].to_pylist()]
    numbers = np.array(hashes, np.int64) % len(writers)
    for number in np.unique(numbers).tolist():
        writers[number].write_table(table.filter(pa.array(numbers == number)))


def clusters(store: Store, table: str | None = None) -> Iterator[str]:
    """Give the distribution of cluster sizes as lines of text; write all of them as a table."""
    sizes = cluster_sizes(store)
    found = measure_sizes(sizes if table is None else _write(table, sizes))
    alone = store.snapshot.counts.documents_kept - found.clusters
    yield f"{alone:,} documents stand for themselves alone"
    for bound, count in found.bins.items():
        yield f"{count:,} stand for {bound:,} to {2 * bound - 1:,} records"
    for *place, size in found.largest:
        yield f"{size:>9,}  {place[0]} ({place[1]}: {place[2]}, record {place[3]})"
    if table is not None:
        yield f"wrote {found.clusters:,} clusters to {table}"


def _write(path: str, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Give tables as they come, and write them to one file of Parquet."""
    schema = _SURVIVORS.append(pa.field("records", pa.int64()))
    with writing(path) as stream, pq.ParquetWriter(stream, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
            yield table
