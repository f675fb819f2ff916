"""Clusters: how many records each kept document stands for.

A cluster is a survivor with the documents that were dropped in its favour. Its size is a query over
the duplicates, never stored: up-sampling by it ("rehydration", FineWeb-2, Penedo et al. 2025) is a
choice of training, not of the corpus.
"""

from collections import Counter
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.files import writing
from pipeline.explain import Store
from pipeline.parquet import read_table

_LARGEST = 10


def cluster_sizes(store: Store) -> Counter[tuple[str, str, str, int]]:
    """Count the records of every cluster of two or more: by id and place of the survivor."""
    sizes: Counter[tuple[str, str, str, int]] = Counter()
    for part in store.snapshot.parts:
        table = read_table(store.tree.find(f"duplicates/{part.name}.parquet"))
        columns = (
            table[f"witness_{name}"].to_pylist() for name in ("id", "snapshot", "file", "position")
        )
        sizes.update(zip(*columns, strict=True))
    return Counter({place: count + 1 for place, count in sizes.items()})


def clusters(store: Store, table: str | None = None) -> Iterator[str]:
    """Give the distribution of cluster sizes as lines of text; write all of them as a table."""
    sizes = cluster_sizes(store)
    alone = store.snapshot.counts.documents_kept - len(sizes)
    yield f"{alone:,} documents stand for themselves alone"
    bound = 2
    while bound <= max(sizes.values(), default=0):
        count = sum(bound <= size < 2 * bound for size in sizes.values())
        yield f"{count:,} stand for {bound:,} to {2 * bound - 1:,} records"
        bound *= 2
    for place, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_LARGEST]:
        yield f"{size:>9,}  {place[0]} ({place[1]}: {place[2]}, record {place[3]})"
    if table is not None:
        _write(table, sizes)
        yield f"wrote {len(sizes):,} clusters to {table}"


def _write(path: str, sizes: Counter[tuple[str, str, str, int]]) -> None:
    names = ("id", "snapshot", "file", "position")
    columns = {name: [place[n] for place in sorted(sizes)] for n, name in enumerate(names)} | {
        "records": [sizes[place] for place in sorted(sizes)]
    }
    with writing(path) as stream:
        pq.write_table(pa.table(columns), stream)
