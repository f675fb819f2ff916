"""The drops that a report shows as examples: a few rows of every rule, from a few parts.

A part holds drops of many rules, so parts are chosen for all rules first, and every table is read
once. What is kept of one are the rows that a page may show.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from corpus.documents import DROP_SCHEMA
from corpus.snapshots import PartEntry, Tree
from pipeline.dedup import METHODS
from pipeline.parquet import read_columns
from pipeline.samples import rank, some_parts

_PARTS = 2  # of each rule

Rows = list[dict[str, Any]]


def choose_drops(
    tree: Tree,
    parts: Sequence[PartEntry],
    rules: Iterable[str],
    choose: Callable[[str, pa.Table], Rows],
) -> dict[str, Rows]:
    """Return what is chosen of every rule's drops in the few of the parts that stand for it."""
    chosen: dict[str, Rows] = {rule: [] for rule in rules}
    wanted: dict[str, list[str]] = {}
    for rule in chosen:
        kind = ".dedup" if rule in METHODS else ""
        for part in some_parts(parts, _PARTS, rule):
            wanted.setdefault(f"dropped/{part.name}{kind}.parquet", []).append(rule)
    for path, found in wanted.items():
        drops = read_columns(tree.find(path), DROP_SCHEMA.names)
        for rule in found:
            chosen[rule] += choose(rule, drops.filter(pc.equal(drops["rule"], rule)))
    return chosen


def least_of(drops: pa.Table, count: int) -> Rows:
    """Return the rows of least hash, in that order."""
    ranks = list(map(rank, drops.select(["id", "snapshot", "file", "position"]).to_pylist()))
    least = sorted(range(len(ranks)), key=ranks.__getitem__)[:count]
    return [row for n in least for row in drops.slice(n, 1).to_pylist()]
