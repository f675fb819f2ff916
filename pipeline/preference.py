"""Who is preferred: the recipe's part of the total order among duplicates, and their scope.

Within a delivery the order of documents is the recipe's preference, then the hash of the normalized
text, then (id, file, position); earlier deliveries go before later ones. A preference is written as
bytes that sort as the documents do, so the walk compares bytes only.
"""

import math
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pyarrow as pa

from corpus.recipe import Dedup

# Raised by hand when a preference or a scope comes out differently.
VERSION = 2

PREFERENCE_BYTES = 24  # three criteria of eight bytes
_LAST = 2**64 - 1
# Where a scaled score is cut, far beyond the ends of eight bytes: a larger one may be infinite.
_MAX_SCALED = 2.0**64
# Scores come from models: equal ones on another machine must stay equal. A thousandth. Guess.
_QUALITY_STEPS = 1000


def scope_of(snapshot: str, source: str, config: Dedup) -> str:
    """Return what two documents must share to be compared at all."""
    return {"corpus": "", "snapshot": f"snapshot {snapshot}", "source": f"source {source}"}[
        config.scope
    ]


def preferences(documents: pa.Table, config: Dedup) -> list[bytes]:
    """Return the preference of every document; the least is the best."""
    if not config.prefer:
        return [bytes(PREFERENCE_BYTES)] * len(documents)
    rows = documents.select(["source", "text", "meta"]).to_pylist()
    return [_preference(row, config) for row in rows]


def count_scored(documents: pa.Table, config: Dedup) -> dict[str, int]:
    """Count the documents that have a quality score, where quality is asked for."""
    if "quality" not in config.prefer:
        return {}
    scores = (_score(meta, config) for meta in documents["meta"].to_pylist())
    return {"scored": sum(score is not None for score in scores)}


def complaints(config: Dedup, sources: Iterable[str], scored: int) -> Iterator[str]:
    """Say which criteria decide nothing in a delivery; a later one may make them count."""
    if "source" in config.prefer and set(sources).isdisjoint(config.source_priority):
        yield (
            f"dedup.source_priority names {', '.join(config.source_priority)}, the sources are "
            f"{', '.join(sources)}: no source is preferred"
        )
    if "quality" in config.prefer and not scored:
        yield (
            f"dedup.quality_key is {config.quality_key}, and no document has a number under it: "
            "quality decides nothing in this delivery"
        )


def _preference(row: dict[str, Any], config: Dedup) -> bytes:
    values = [_CRITERIA[criterion](row, config) for criterion in config.prefer]
    return struct.pack(">3Q", *values, *[0] * (3 - len(values)))


def _by_source(row: dict[str, Any], config: Dedup) -> int:
    order = config.source_priority
    return order.index(row["source"]) if row["source"] in order else len(order)


def _by_quality(row: dict[str, Any], config: Dedup) -> int:
    """Rank by a number in the record's own fields: higher is better, none is last."""
    score = _score(row["meta"], config)
    if score is None:
        return _LAST
    scaled = min(max(score * _QUALITY_STEPS, -_MAX_SCALED), _MAX_SCALED)
    return min(max(2**63 - math.floor(scaled), 0), _LAST - 1)


def _score(meta: str | None, config: Dedup) -> int | float | None:
    fields = orjson.loads(meta) if meta else {}
    return _number(fields.get(config.quality_key))


def _number(value: object) -> int | float | None:
    """Return a finite number; fields of CSV and TSV are strings, whatever they hold."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def _by_length(row: dict[str, Any], _config: Dedup) -> int:
    """Rank by bytes of text: longer is better."""
    return 2**63 - len(row["text"].encode())


_CRITERIA = {"source": _by_source, "quality": _by_quality, "length": _by_length}
