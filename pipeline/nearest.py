"""The documents nearest to each threshold, on both of its sides, for whoever sets thresholds.

Of every rule a part keeps the few documents that it dropped most narrowly and the few that passed
the whole chain most narrowly, with the beginning of their text as it was judged: masked where the
recipe masks. The nearest of a delivery are the nearest of its parts' nearest, so splits never show;
among equals a hash of the place decides.

They lie in `nearest/<part>.parquet`, outside the fingerprint, and go with a take-down as documents
do: by id, URL, source or text. A place that one leaves free is not filled, so that a rebuild with
the list shows the same. Cost: a few vector operations a batch; texts are taken only of documents
that are nearer than all before.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from corpus.documents import text_hash
from corpus.forgotten import Forgotten
from corpus.recipe import Clean
from corpus.records import Record
from corpus.snapshots import Snapshot
from pipeline.chain import Judged, Looked, record_id
from pipeline.kernels import GOLDEN, Int64s, UInt64s, mix
from pipeline.languages import SCORE
from pipeline.rules import BY_NAME, thresholds

# Of every rule and side, what a reader looks at; and how much of a text. Guesses.
EXAMPLES, EXCERPT_CHARACTERS = 3, 300

# `rank` decides among documents equally near; id to text_hash tell whether one was taken down.
SCHEMA = pa.schema(
    [
        pa.field("rule", pa.string(), nullable=False),
        pa.field("side", pa.string(), nullable=False),
        pa.field("rank", pa.uint64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("snapshot", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("text_hash", pa.binary(16), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
DROPPED, KEPT = "dropped", "kept"
_NOBODY = (np.inf, 0)  # as far away as can be: whoever comes is nearer

Floats = npt.NDArray[np.float64]

# By rule, then side: of each its distance from the threshold, its rank and its part.
Places = dict[str, dict[str, list[tuple[float, int, str]]]]


class _Near(NamedTuple):
    away: float
    rank: int
    row: dict[str, Any]


class _Batch(NamedTuple):
    """Records with their files and ranks, and what became of them."""

    files: Sequence[str]
    records: Sequence[Record]
    ranks: UInt64s
    judged: Judged
    dropped: Mapping[str, list[int]]  # by rule: the places in the batch


def limits_of(config: Clean) -> dict[str, float]:
    """Return the thresholds that documents can lie beside, by rule in the order of the chain.

    NaN where each document has its own: that of its language.
    """
    score = config.languages.min_score
    of_all = float(score) if isinstance(score, int) else np.nan
    return ({SCORE: of_all} if score else {}) | {
        rule: float(limit)
        for rule, limit in thresholds(config).items()
        if limit is not None and not BY_NAME[rule].on_lines
    }


def nearest_path(part: str) -> str:
    """Return where the nearest of a part lie."""
    return f"nearest/{part}.parquet"


def listed_excerpts(snapshot: Snapshot) -> dict[str, str]:
    """Return where the nearest of each part lie that has any, by the part's name."""
    listed = {each.path for each in snapshot.files}
    paths = {part.name: nearest_path(part.name) for part in snapshot.parts}
    return {name: path for name, path in paths.items() if path in listed}


class Nearest:
    """Collects the documents of one part that lie nearest to each threshold."""

    def __init__(self, origin: tuple[str, str], config: Clean) -> None:
        """Begin with none; `origin` are snapshot and source of all of them."""
        self._origin = dict(zip(("snapshot", "source"), origin, strict=True))
        self._limits = limits_of(config)
        self._found: dict[tuple[str, str], list[_Near]] = {}
        self._seeds: dict[str, int] = {}

    def add(self, files: Sequence[str], records: Sequence[Record], judged: Judged) -> None:
        """Look at a batch: the file of each record, the records and what became of them."""
        if not self._limits:
            return
        positions = np.array([record.position for record in records], np.uint64)
        ranks = _ranks(positions, np.array([self._seed(file) for file in files], np.uint64))
        dropped: dict[str, list[int]] = {}
        for number, failure in enumerate(judged.failures):
            if failure is not None and failure.rule in self._limits:
                dropped.setdefault(failure.rule, []).append(number)
        for looked in judged.looked:
            self._look(looked, _Batch(files, records, ranks, judged, dropped))

    def _seed(self, file: str) -> int:
        if file not in self._seeds:
            place = orjson.dumps([*self._origin.values(), file])
            self._seeds[file] = int.from_bytes(hashlib.sha256(place).digest()[:8], "big")
        return self._seeds[file]

    def _look(self, looked: Looked, batch: _Batch) -> None:
        rules = [rule for rule in looked.values if rule in self._limits]
        if not rules:
            return
        here = np.zeros(len(batch.records), np.int64)
        here[looked.rows] = np.arange(len(looked.rows))
        for rule in rules:
            numbers = np.array(batch.dropped.get(rule, ()), np.int64)
            if len(numbers):  # their texts are as the rule saw them
                seen = self._seen(looked, rule, here[numbers])
                self._offer((rule, DROPPED), seen, (numbers, here[numbers], looked.texts), batch)
        kept = batch.judged.rows  # their texts are as they stay
        values = [self._seen(looked, rule, here[kept]) for rule in rules]
        away = np.stack([distances for _, distances in values])
        bounds = [self._bound((rule, KEPT)) for rule in rules]
        least = np.array([bound[0] for bound in bounds])[:, None]
        ranks = np.array([bound[1] for bound in bounds], np.uint64)[:, None]
        is_near = (away < least) | ((away == least) & (batch.ranks[kept] < ranks))
        for row in np.flatnonzero(is_near.any(axis=1)).tolist():
            found = (kept, np.arange(len(kept)), batch.judged.texts)
            self._offer((rules[row], KEPT), values[row], found, batch)

    def _seen(self, looked: Looked, rule: str, places: Int64s) -> tuple[Floats, Floats]:
        """Return the values of some documents and how far they are from their threshold."""
        values = looked.values[rule]
        away = np.abs(values - looked.limits.get(rule, self._limits[rule]))
        return values[places], away[places]

    def _bound(self, key: tuple[str, str]) -> tuple[float, int]:
        """Return distance and rank of the last that is near enough so far."""
        found = self._found.get(key, [])
        return found[-1][:2] if len(found) == EXAMPLES else _NOBODY

    def _offer(
        self,
        key: tuple[str, str],
        seen: tuple[Floats, Floats],
        found: tuple[Int64s, Int64s, pa.LargeStringArray],
        batch: _Batch,
    ) -> None:
        """Take those documents that are nearer than what is there.

        `found` are their places in the batch, their places among the texts, and the texts.
        """
        numbers, places, texts = found
        values, away = seen
        for n in np.lexsort((batch.ranks[numbers], away))[:EXAMPLES].tolist():
            number, near = int(numbers[n]), (float(away[n]), int(batch.ranks[numbers[n]]))
            if np.isnan(near[0]) or near >= self._bound(key):
                return
            row = self._row(batch, number, str(texts[int(places[n])].as_py()))
            row |= {"rule": key[0], "side": key[1], "rank": near[1], "value": float(values[n])}
            mine = [*self._found.get(key, ()), _Near(*near, row)]
            self._found[key] = sorted(mine, key=itemgetter(0, 1))[:EXAMPLES]

    def _row(self, batch: _Batch, number: int, text: str) -> dict[str, Any]:
        record = batch.records[number]
        return self._origin | {
            "id": record_id(self._origin["source"], record),
            "url": record.url,
            "file": batch.files[number],
            "position": record.position,
            "text_hash": text_hash(text),
            "text": text[:EXCERPT_CHARACTERS],
        }

    def table(self, forgotten: Forgotten) -> pa.Table:
        """Return the documents found, but for those that were taken down."""
        rows = [near.row for _, found in sorted(self._found.items()) for near in found]
        return without_forgotten(pa.Table.from_pylist(rows, schema=SCHEMA), forgotten)

    def places(self) -> dict[str, dict[str, list[tuple[float, int]]]]:
        """Return how far each is and its rank, by rule and side, those taken down included."""
        places: dict[str, dict[str, list[tuple[float, int]]]] = {}
        for (rule, side), found in sorted(self._found.items()):
            places.setdefault(rule, {})[side] = [near[:2] for near in found]
        return places


@numba.njit(cache=True)
def _ranks(positions: UInt64s, seeds: UInt64s) -> UInt64s:
    """Hash positions by the seeds of their files: an order that has nothing to do with theirs."""
    ranks = np.empty(len(positions), np.uint64)
    for n in range(len(positions)):
        ranks[n] = mix(positions[n] * np.uint64(GOLDEN) + seeds[n])
    return ranks


def without_forgotten(nearest: pa.Table, forgotten: Forgotten) -> pa.Table:
    """Return the documents of a table that were not taken down."""
    if forgotten.is_empty:
        return nearest
    return nearest.filter(~forgotten.which(nearest))


def merge_places(parts: Iterable[Mapping[str, Any]]) -> Places:
    """Return the nearest of all parts, from what is known of each."""
    merged: Places = {}
    for part in parts:
        for rule, sides in part["nearest"].items():
            for side, found in sides.items():
                mine = merged.setdefault(rule, {}).setdefault(side, [])
                mine += [(away, rank, part["name"]) for away, rank in found]
                mine.sort()
                del mine[EXAMPLES:]
    return {rule: dict(sorted(sides.items())) for rule, sides in sorted(merged.items())}
