"""Which rows a report shows as examples: a few, the same ones for the same snapshot.

They are chosen by hashes of their places, from a few parts of least hash, so a page costs the same
whatever the size of the corpus, and no order of reading shows.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from corpus.snapshots import PartEntry
from pipeline.pictures import Html, place


def some_parts(
    parts: Iterable[PartEntry], count: int, dropped_by: str | None = None
) -> list[PartEntry]:
    """Return a few of the parts, or of those with drops of a rule: the ones of least hash."""
    having = [part for part in parts if dropped_by is None or part.dropped.get(dropped_by)]
    return sorted(having, key=lambda part: hashlib.sha256(part.name.encode()).digest())[:count]


def rank(row: Mapping[str, Any]) -> bytes:
    """Return what examples are ordered by: a hash of the row's place."""
    place = [row[key] for key in ("id", "snapshot", "file", "position")]
    return hashlib.sha256(orjson.dumps(place)).digest()


def where(row: Mapping[str, Any], prefix: str = "") -> Html:
    """Say where a row's document, or its witness, was read."""
    return place(*(row[prefix + key] for key in ("snapshot", "file", "position")))
