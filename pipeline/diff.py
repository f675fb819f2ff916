"""Diff: what came and what went between two snapshots of a store, and why.

What is counted of a delivery says the manifest; read are only parts that both snapshots have and
whose files differ, each by itself. A document is known by its place (snapshot, file, position). It
came with a delivery, or was admitted again when its witness was taken out; it went by the rule of
its drop row in the later snapshot.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from corpus.snapshots import Snapshot, Tree
from pipeline.explain import Store
from pipeline.jobs import HERE, LOOKS, Pool
from pipeline.parquet import read_table

_Place = tuple[str, str, int]
# Records by source and reason.
Counts = Counter[tuple[str, str]]
_KINDS = (
    "clean/{}.parquet", "duplicates/{}.parquet", "dropped/{}.parquet", "dropped/{}.dedup.parquet",
)  # fmt: skip
_DELIVERED, _AGAIN, _ABSENT = "delivered", "admitted again", "not in the later snapshot"


class Change(NamedTuple):
    """One document that came or went; `why` is `delivered`, `admitted again` or a rule."""

    source: str
    came: bool
    why: str
    id: str
    place: _Place


class Part(NamedTuple):
    """A part that is not the same in two snapshots, or in one of them only."""

    name: str
    source: str
    in_earlier: bool
    in_later: bool

    @property
    def is_in_both(self) -> bool:
        """Return whether the part has to be read to tell what changed."""
        return self.in_earlier and self.in_later


class Difference(NamedTuple):
    """How many documents came and went, and how many new records were never kept."""

    came: Counts
    went: Counts
    refused: Counts


def changed_parts(earlier: Snapshot, later: Snapshot) -> list[Part]:
    """Return the parts whose documents may not be the same in both snapshots, by name."""
    before, after = _homes(earlier), _homes(later)
    sources = {part.name: part.source for part in (*earlier.parts, *later.parts)}
    parts = []
    for name, source in sorted(sources.items()):
        paths = [kind.format(name) for kind in _KINDS]
        if [before.get(path) for path in paths] != [after.get(path) for path in paths]:
            parts.append(Part(name, source, paths[0] in before, paths[0] in after))
    return parts


def count_changes(
    earlier: Store, later: Store, pool: Pool = HERE, most: int | None = None
) -> tuple[Difference, int]:
    """Count what distinguishes the later of two snapshots.

    Where more parts than `most` would have to be read none is, and how many is returned beside.
    """
    counted = Difference(Counter(), Counter(), Counter())
    before = {part.name: part for part in earlier.snapshot.parts}
    after = {part.name: part for part in later.snapshot.parts}
    read = []
    for part in changed_parts(earlier.snapshot, later.snapshot):
        if part.is_in_both:
            read.append(part)
        elif part.in_later:
            entry = after[part.name]
            counted.came[part.source, _DELIVERED] += entry.kept
            counted.refused.update({(part.source, rule): n for rule, n in entry.dropped.items()})
        else:
            counted.went[part.source, _ABSENT] += before[part.name].kept
    if most is not None and len(read) > most:
        return counted, len(read)
    for found in pool.map("parts", _count_part, read, earlier.tree, later.tree, least=LOOKS):
        counted.came.update(found.came)
        counted.went.update(found.went)
    return counted, 0


def find_changes(earlier: Store, later: Store, pool: Pool = HERE) -> Iterator[Change]:
    """Give every document that came or went, part by part."""
    parts = changed_parts(earlier.snapshot, later.snapshot)
    for found in pool.map("parts", _compare, parts, earlier.tree, later.tree, least=LOOKS):
        yield from found


def _count_part(part: Part, earlier: Tree, later: Tree) -> Difference:
    came, went = Counts(), Counts()
    for change in _compare(part, earlier, later):
        (came if change.came else went)[change.source, change.why] += 1
    return Difference(came, went, Counter())


def _compare(part: Part, earlier: Tree, later: Tree) -> list[Change]:
    """Return what came and went in a part, in order of places."""
    documents = _documents(earlier, part.name) if part.in_earlier else {}
    old = _without_duplicates(earlier, part.name, documents) if part.in_earlier else {}
    new = _kept(later, part.name) if part.in_later else {}
    rules = _rules(later, part.name) if part.is_in_both else {}
    came = [
        Change(part.source, True, _AGAIN if place in documents else _DELIVERED, identity, place)
        for place, identity in sorted(new.items())
        if place not in old
    ]
    went = [
        Change(part.source, False, rules.get(place, _ABSENT), identity, place)
        for place, identity in sorted(old.items())
        if place not in new
    ]
    return came + went


def _homes(snapshot: Snapshot) -> dict[str, str]:
    return {each.path: each.home for each in snapshot.files}


def _documents(tree: Tree, part: str) -> dict[_Place, str]:
    columns = ["id", "snapshot", "file", "position"]
    rows = read_table(tree.find(f"clean/{part}.parquet"), columns=columns).to_pylist()
    return {_place(row): row["id"] for row in rows}


def _kept(tree: Tree, part: str) -> dict[_Place, str]:
    return _without_duplicates(tree, part, _documents(tree, part))


def _without_duplicates(
    tree: Tree, part: str, documents: Mapping[_Place, str]
) -> dict[_Place, str]:
    columns = ["snapshot", "file", "position"]
    gone = read_table(tree.find(f"duplicates/{part}.parquet"), columns=columns).to_pylist()
    places = {_place(row) for row in gone}
    return {place: identity for place, identity in documents.items() if place not in places}


def _rules(tree: Tree, part: str) -> dict[_Place, str]:
    rows = [
        row
        for kind in ("", ".dedup")
        for row in read_table(tree.find(f"dropped/{part}{kind}.parquet")).to_pylist()
    ]
    return {_place(row): row["rule"] for row in rows}


def _place(row: Mapping[str, Any]) -> _Place:
    return row["snapshot"], row["file"], row["position"]


def describe(
    earlier: Store, later: Store, pool: Pool = HERE, list_all: bool = False
) -> Iterator[str]:
    """Give the difference as lines of text, by source and reason; on request every document."""
    for store in (earlier, later):
        counts = store.snapshot.counts
        yield f"{store.snapshot.label}: {counts.documents_kept:,} kept, {counts.tokens:,} tokens"
    counted, _ = count_changes(earlier, later, pool)
    totals = [(source, "-", why, count) for (source, why), count in (+counted.went).items()]
    totals += [(source, "+", why, count) for (source, why), count in (+counted.came).items()]
    for source, sign, why, count in sorted(
        totals, key=lambda each: (each[0], each[1] == "+", each)
    ):
        yield f"{source}  {sign}{count:,} {why}"
    refused = sorted((+counted.refused).items())
    for (source, rule), count in refused:
        yield f"{source}   {count:,} of the new records dropped by {rule}"
    if not totals and not refused:
        yield "no document came or went"
    for change in find_changes(earlier, later, pool) if list_all else ():
        sign = "+" if change.came else "-"
        place = f"{change.place[0]}: {change.place[1]}, record {change.place[2]}"
        yield f"{sign} {change.id} ({place}) {change.why}"


def to_json(earlier: Store, later: Store, pool: Pool = HERE) -> Iterator[str]:
    """Give the difference as one JSON object, in pieces: every change, and what was refused."""
    yield '{"changes":['
    for number, change in enumerate(find_changes(earlier, later, pool)):
        fields = {key: getattr(change, key) for key in ("id", "source", "came", "why", "place")}
        yield ("," if number else "") + orjson.dumps(fields).decode()
    counted, _ = count_changes(earlier, later, pool, most=0)  # what the manifest says is enough
    refused = [
        {"source": source, "rule": rule, "records": count}
        for (source, rule), count in sorted((+counted.refused).items())
    ]
    yield f'],"refused":{orjson.dumps(refused).decode()}}}'
