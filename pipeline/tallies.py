"""What `stats.json` holds: the funnel of every source, and what cleaning saw of new deliveries.

Everything is added up from the records of tasks and the manifest's parts; nothing here enters a
fingerprint.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import orjson

from corpus.files import exists, join, read_bytes
from corpus.snapshots import PartEntry
from pipeline.clean import FIRST_PLACES
from pipeline.distributions import add_counts
from pipeline.nearest import merge_places

STATS = "stats.json"
# Files and rules with broken records that are told one by one; a guess at what anybody looks at.
_WORST = 1000


def read_stats(root: str) -> dict[str, Any]:
    """Return what a snapshot's directory says of its statistics; nothing where that is purged."""
    path = join(root, STATS)
    stats: dict[str, Any] = orjson.loads(read_bytes(path)) if exists(path) else {}
    return stats


def describe_cleaning(by_source: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Add up what cleaning saw: languages and changes by source, the rest of all sources."""

    empty = Counter[str]()

    def add(what: str) -> dict[str, dict[str, int]]:
        return {
            source: dict(sorted(sum((Counter(part[what]) for part in parts), empty).items()))
            for source, parts in sorted(by_source.items())
        }

    every = [part for parts in by_source.values() for part in parts]
    return {
        "languages": add("languages"),
        "changed": add("changed"),
        "distributions": add_counts(part["distributions"] for part in every),
        "nearest": merge_places(every),
        "unreadable": _unreadable(every),
    }


def _unreadable(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Add up broken records by file and rule, the worst first, and how many records files have."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    records = Counter[tuple[str, ...]]()
    for part in parts:
        origin = part["origin"]["source"], part["origin"]["snapshot"]
        records.update({(*origin, file): count for file, count in part["records"].items()})
        for file, rules in part["unreadable"].items():
            for rule, broken in rules.items():
                mine = found.setdefault((*origin, file, rule), {"count": 0, "first": []})
                mine["count"] += broken["count"]
                mine["first"] = sorted([*mine["first"], *broken["first"]], key=itemgetter(0))
                del mine["first"][FIRST_PLACES:]
    worst = sorted(found.items(), key=lambda item: (-item[1]["count"], item[0]))[:_WORST]
    names = ("source", "snapshot", "file", "rule")
    return {
        "records": sum(each["count"] for each in found.values()),
        "files": len({key[:3] for key in found}),
        "worst": [
            dict(zip(names, key, strict=True)) | each | {"records": records[key[:3]]}
            for key, each in worst
        ],
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
