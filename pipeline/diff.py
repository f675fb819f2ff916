"""Diff: what came and what went between two snapshots of a store, and why.

Only parts whose files differ are read. A document is known by its place (snapshot, file,
position). It came with a delivery, or was admitted again when its witness was taken out; it went by
the rule of its drop row in the later snapshot.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from corpus.snapshots import Snapshot
from pipeline.explain import Store
from pipeline.parquet import read_table

_Place = tuple[str, str, int]
_KINDS = (
    "clean/{}.parquet", "duplicates/{}.parquet", "dropped/{}.parquet", "dropped/{}.dedup.parquet",
)  # fmt: skip


class Change(NamedTuple):
    """One document that came or went; `why` is `delivered`, `admitted again` or a rule."""

    source: str
    came: bool
    why: str
    id: str
    place: _Place


class Difference(NamedTuple):
    """What distinguishes the later of two snapshots.

    `refused` counts records of new deliveries that were never kept, by source and rule.
    """

    changes: tuple[Change, ...]
    refused: Mapping[tuple[str, str], int]


def compare(earlier: Store, later: Store) -> Difference:
    """Compare two snapshots of one store."""
    before, after = _homes(earlier.snapshot), _homes(later.snapshot)
    sources = {part.name: part.source for part in (*earlier.snapshot.parts, *later.snapshot.parts)}
    changes: list[Change] = []
    refused: Counter[tuple[str, str]] = Counter()
    for name, source in sorted(sources.items()):
        paths = [kind.format(name) for kind in _KINDS]
        if [before.get(path) for path in paths] == [after.get(path) for path in paths]:
            continue
        old = _kept(earlier, name) if paths[0] in before else {}
        new = _kept(later, name) if paths[0] in after else {}
        known = set(_documents(earlier, name)) if paths[0] in before else set()
        for place, identity in sorted(new.items()):
            if place not in old:
                why = "admitted again" if place in known else "delivered"
                changes.append(Change(source, True, why, identity, place))
        rules = _rules(later, name) if paths[0] in after else {}
        for place, identity in sorted(old.items()):
            if place not in new:
                why = rules.get(place, "not in the later snapshot")
                changes.append(Change(source, False, why, identity, place))
        if paths[0] not in before:
            refused.update((source, rule) for rule in rules.values())
    return Difference(tuple(changes), dict(sorted(refused.items())))


def _homes(snapshot: Snapshot) -> dict[str, str]:
    return {each.path: each.home for each in snapshot.files}


def _documents(store: Store, part: str) -> dict[_Place, str]:
    columns = ["id", "snapshot", "file", "position"]
    rows = read_table(store.tree.find(f"clean/{part}.parquet"), columns=columns).to_pylist()
    return {_place(row): row["id"] for row in rows}


def _kept(store: Store, part: str) -> dict[_Place, str]:
    gone = read_table(store.tree.find(f"duplicates/{part}.parquet")).to_pylist()
    places = {_place(row) for row in gone}
    return {k: v for k, v in _documents(store, part).items() if k not in places}


def _rules(store: Store, part: str) -> dict[_Place, str]:
    rows = [
        row
        for kind in ("", ".dedup")
        for row in read_table(store.tree.find(f"dropped/{part}{kind}.parquet")).to_pylist()
    ]
    return {_place(row): row["rule"] for row in rows}


def _place(row: Mapping[str, Any]) -> _Place:
    return row["snapshot"], row["file"], row["position"]


def describe(earlier: Store, later: Store, list_all: bool = False) -> Iterator[str]:
    """Give the difference as lines of text, by source and reason; on request every document."""
    found = compare(earlier, later)
    for store in (earlier, later):
        counts = store.snapshot.counts
        yield f"{store.snapshot.label}: {counts.documents_kept:,} kept, {counts.tokens:,} tokens"
    totals = Counter((change.source, change.came, change.why) for change in found.changes)
    for (source, came, why), count in sorted(totals.items()):
        yield f"{source}  {'+' if came else '-'}{count:,} {why}"
    for (source, rule), count in found.refused.items():
        yield f"{source}   {count:,} of the new records dropped by {rule}"
    if not totals and not found.refused:
        yield "no document came or went"
    if list_all:
        for change in found.changes:
            sign = "+" if change.came else "-"
            place = f"{change.place[0]}: {change.place[1]}, record {change.place[2]}"
            yield f"{sign} {change.id} ({place}) {change.why}"


def to_json(found: Difference) -> dict[str, Any]:
    """Return a difference as plain values."""
    return {
        "changes": [
            {"id": c.id, "source": c.source, "came": c.came, "why": c.why, "place": list(c.place)}
            for c in found.changes
        ],
        "refused": [
            {"source": source, "rule": rule, "records": count}
            for (source, rule), count in found.refused.items()
        ],
    }
