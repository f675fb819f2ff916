"""What `stats.json` holds: the funnel of every source, and what cleaning saw of new deliveries.

Everything is added up from the records of tasks and the manifest's parts; nothing here enters a
fingerprint.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from corpus.files import exists, join, read_bytes
from corpus.snapshots import PartEntry
from pipeline.distributions import add_counts

STATS = "stats.json"


def read_stats(root: str) -> dict[str, Any]:
    """Return what a snapshot's directory says of its statistics; nothing where that is purged."""
    path = join(root, STATS)
    stats: dict[str, Any] = orjson.loads(read_bytes(path)) if exists(path) else {}
    return stats


def describe_cleaning(by_source: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Add up what cleaning saw: languages and changes by source, statistics of all rules."""

    empty = Counter[str]()

    def add(what: str) -> dict[str, dict[str, int]]:
        return {
            source: dict(sorted(sum((Counter(part[what]) for part in parts), empty).items()))
            for source, parts in sorted(by_source.items())
        }

    every = [part["distributions"] for parts in by_source.values() for part in parts]
    return {
        "languages": add("languages"),
        "changed": add("changed"),
        "distributions": add_counts(every),
    }


def funnel(parts: Iterable[PartEntry]) -> dict[str, Any]:
    """Return what became of every source's records: kept, tokens, drops by rule."""
    sources: dict[str, dict[str, Any]] = {}
    for part in parts:
        empty = {"dropped": {}, "documents": 0, "tokens": 0, "text_bytes": 0}
        entry = sources.setdefault(part.source, empty)
        entry["documents"] += part.kept
        entry["tokens"] += part.tokens
        entry["text_bytes"] += part.text_bytes
        dropped = Counter(entry["dropped"]) + Counter(part.dropped)
        entry["dropped"] = dict(sorted(dropped.items()))
    return dict(sorted(sources.items()))
