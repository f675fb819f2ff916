"""Losses: what a user is told where nothing of a source, or nothing at all, was kept.

A wrong column name drops a whole source by one rule, and the counts alone do not say why. What the
first of its records was dropped for does: one drop table a source is read for it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from corpus.documents import DROP_SCHEMA
from corpus.snapshots import PartEntry, Snapshot, Tree
from pipeline.dedup import METHODS
from pipeline.explain import compared
from pipeline.parquet import read_columns

Dropped = Mapping[str, Mapping[str, int]]  # by part: how many records went, by rule


def tell_lost(snapshot: Snapshot, tree: Tree) -> Iterator[str]:
    """Name the sources that a delivery brought and of which nothing was kept, as lines of text."""
    sources: dict[str, list[PartEntry]] = {}
    for part in snapshot.parts:
        if part.snapshot == snapshot.label:
            sources.setdefault(part.source, []).append(part)
    for source, parts in sorted(sources.items()):
        dropped = {part.name: part.dropped for part in parts if part.dropped}
        if dropped and not any(part.kept for part in parts):
            yield f"warning: nothing of source {source} was kept: {describe(tree, dropped)}"


def describe(tree: Tree, dropped: Dropped) -> str:
    """Say how many records went by which rule, the most first, and why the first of those did."""
    counted = Counter[str]()
    for rules in dropped.values():
        counted.update(rules)
    if not counted:
        return "there was no record to read"
    reasons = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    told = ", ".join(f"{count:,} {rule}" for rule, count in reasons)
    first = _first(tree, dropped, reasons[0][0])
    where = f"{first['file']}, record {first['position']}"
    return f"{told}; the first by {first['rule']} ({where}){_why(first)}"


def _first(tree: Tree, dropped: Dropped, rule: str) -> dict[str, Any]:
    """Return the row of the first record that a rule dropped, of one part that has any."""
    part = min(name for name, rules in dropped.items() if rules.get(rule))
    kind = ".dedup" if rule in METHODS else ""
    drops = read_columns(tree.find(f"dropped/{part}{kind}.parquet"), DROP_SCHEMA.names)
    found = drops.filter(pc.equal(drops["rule"], rule)).sort_by(
        [("file", "ascending"), ("position", "ascending")]
    )
    row: dict[str, Any] = found.slice(0, 1).to_pylist()[0]
    return row


def _why(row: Mapping[str, Any]) -> str:
    """Say what is known of a drop, as `explain` does: in words, in numbers, or its witness."""
    if row["witness_id"] is not None:
        return f": in favour of {row['witness_id']}"
    return f": {row['detail']}" if row["detail"] else compared(row)
