"""Clean: raw files become documents that passed the rules, drop records and an index.

A document's text and verdict depend on that document and the recipe alone; `pipeline/chain.py` is
what is done to it. What a task reads is written in parts of bounded size, each sorted by (id, file,
position), so memory does not grow with a file; the parts follow from the content of files, never
from who did the work.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from corpus.documents import (
    DOCUMENT_SCHEMA,
    DROP_SCHEMA,
    digest_table,
    drop_row,
    drops_table,
    format_digest,
)
from corpus.forgotten import Forgotten
from corpus.recipe import Clean, Dedup
from corpus.records import Damage, Record
from corpus.snapshots import Tree
from pipeline.chain import Chain, Judged, open_chain, record_id
from pipeline.cuts import Cut, Read
from pipeline.distributions import add_counts
from pipeline.hashes import text_hashes
from pipeline.jobs import Output
from pipeline.nearest import Nearest, nearest_path
from pipeline.parquet import read_table, write_table
from pipeline.preference import count_scored
from pipeline.rules import Failure
from pipeline.signatures import write_index

# Raised by hand when rows, parts, their order or what is known of them change.
VERSION = 4

_NOTHING = Forgotten()

# What a part holds; a task needs a few times this. Guess that fits 2 GB a task.
PART_BYTES = 128 * 2**20
# What goes through the chain at a time, raw: large beside the cost of a call, small beside a part.
_BATCH_RECORDS, _BATCH_BYTES = 1024, 4 * 2**20
# What a row takes beside its text and meta, also a dropped one's: measured with tracemalloc, 1 KB.
_ROW_BYTES = 1024
# Broken records are all that readers drop, but for what is none of a document's, and pages with no
# text in them. Of a file and rule the first are told, those a reader looks at: a guess.
_NO_DOCUMENTS, _BROKEN_PAGES = ("warc_", "http_status", "wikipedia_", "member_"), "page_"
FIRST_PLACES = 3


class Origin(NamedTuple):
    """Where records come from: the snapshot that delivers them and their source."""

    snapshot: str
    source: str


@dataclass
class Rows:
    """Documents and drops of one part, in the order they were read.

    records: how many there are of each file; unreadable: by file and rule, how many of them are
    broken, and of the first of these position, value, threshold and detail.
    """

    nearest: Nearest
    tables: list[pa.Table] = field(default_factory=list)
    drops: list[dict[str, Any]] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)
    distributions: dict[str, dict[str, int]] = field(default_factory=dict)
    records: Counter[str] = field(default_factory=Counter)
    unreadable: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    text_bytes: int = 0
    held_bytes: int = 0

    def documents(self) -> pa.Table:
        """Return the documents in canonical order."""
        documents = pa.concat_tables([DOCUMENT_SCHEMA.empty_table(), *self.tables])
        keys = [(name, "ascending") for name in ("id", "file", "position")]
        return documents.take(pa.compute.sort_indices(documents, keys)).combine_chunks()

    def dropped(self) -> pa.Table:
        """Return the drops in canonical order."""
        return drops_table(self.drops)

    def note_unreadable(self, row: Mapping[str, Any]) -> None:
        """Count a broken record, in the order of positions."""
        of_file = self.unreadable.setdefault(row["file"], {})
        known = of_file.setdefault(row["rule"], {"count": 0, "first": []})
        known["count"] += 1
        if len(known["first"]) < FIRST_PLACES:
            first = [row[name] for name in ("position", "value", "threshold", "detail")]
            known["first"].append(first)


class Cleaner(NamedTuple):
    """What a task cleans with: where its records come from, the chain and what stays out."""

    origin: Origin
    chain: Chain
    forgotten: Forgotten = _NOTHING

    def parts(self, records: Iterable[Read]) -> Iterator[Rows]:
        """Turn records into parts; every record becomes one document or one drop."""
        part = self._begin()
        for batch in batches(records):
            self._add(part, batch)
            if part.held_bytes >= PART_BYTES:
                yield part
                part = self._begin()
        yield part

    def _begin(self) -> Rows:
        return Rows(Nearest(self.origin, self.chain.config))

    def _add(self, part: Rows, batch: Sequence[Read]) -> None:
        part.held_bytes += _ROW_BYTES * len(batch)
        part.records.update(file for file, _ in batch)
        for file, each in batch:
            if isinstance(each, Damage):
                part.drops.append(self._damage_row(file, each))
                if not each.rule.startswith(_NO_DOCUMENTS):
                    part.note_unreadable(part.drops[-1])
        files, records = readable(batch)
        if not records:
            return
        judged = self.chain.clean(records, self.origin.source)
        for file, record, failure in zip(files, records, judged.failures, strict=True):
            if failure is not None:
                part.drops.append(self._failure_row(file, record, failure))
                if failure.rule.startswith(_BROKEN_PAGES):
                    part.note_unreadable(part.drops[-1])
        part.nearest.add(files, records, judged)
        documents = self._without_forgotten(part, self._table(files, records, judged))
        size = pa.compute.sum(pa.compute.binary_length(documents["text"])).as_py() or 0
        metas = pa.compute.sum(pa.compute.binary_length(documents["meta"])).as_py() or 0
        part.tables.append(documents)
        part.text_bytes += size
        part.held_bytes += size + metas
        part.distributions = add_counts([part.distributions, judged.distributions])
        for what, count in judged.counts.items():
            part.changed[what] = part.changed.get(what, 0) + count

    def _place(self, file: str, position: int) -> dict[str, Any]:
        return self.origin._asdict() | {"file": file, "position": position}

    def _damage_row(self, file: str, damage: Damage) -> dict[str, Any]:
        return drop_row(
            **self._place(file, damage.position),
            stage="read",
            rule=damage.rule,
            value=damage.value,
            threshold=damage.threshold,
            detail=damage.detail,
        )

    def _failure_row(self, file: str, record: Record, failure: Failure) -> dict[str, Any]:
        return drop_row(
            **self._place(file, record.position),
            id=record_id(self.origin.source, record),
            stage="clean",
            rule=failure.rule,
            value=_float(failure.value),
            threshold=_float(failure.threshold),
            detail=failure.detail,
        )

    def _table(self, files: Sequence[str], records: Sequence[Record], judged: Judged) -> pa.Table:
        """Return the documents of a batch that passed."""
        origin, rows = self.origin, judged.rows.tolist()
        passed = [records[row] for row in rows]
        columns = {
            "id": [record_id(origin.source, record) for record in passed],
            "text": judged.texts.cast(pa.string()),
            "source": [origin.source] * len(rows),
            "url": [record.url for record in passed],
            "language": [judged.languages[row] for row in rows],
            "meta": [record.meta for record in passed],
            "snapshot": [origin.snapshot] * len(rows),
            "file": [files[row] for row in rows],
            "position": [record.position for record in passed],
            "text_hash": text_hashes(judged.texts),
        }
        return pa.Table.from_pydict(columns, schema=DOCUMENT_SCHEMA)

    def _without_forgotten(self, part: Rows, documents: pa.Table) -> pa.Table:
        if self.forgotten.is_empty:
            return documents
        goes = self.forgotten.which(documents)
        columns = ["id", "source", "url", "text_hash", "snapshot", "file", "position"]
        part.drops += map(forgotten_row, documents.select(columns).filter(goes).to_pylist())
        return documents.filter(~goes)


def batches(records: Iterable[Read]) -> Iterator[list[Read]]:
    """Cut records into what goes through the chain at a time."""
    batch: list[Read] = []
    held = 0
    for read in records:
        batch.append(read)
        record = read[1]
        if isinstance(record, Record):
            held += len(record.text) + len(record.page)
        if len(batch) == _BATCH_RECORDS or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def readable(batch: Iterable[Read]) -> tuple[list[str], list[Record]]:
    """Return the records of a batch that could be read: the file of each, and the records."""
    found = [(file, each) for file, each in batch if isinstance(each, Record)]
    return [file for file, _ in found], [record for _, record in found]


def _float(value: float | None) -> float | None:
    return None if value is None else float(value)


def forgotten_row(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the drop row of a document that was asked to be forgotten: its place, not its id."""
    place = {name: document[name] for name in ("source", "snapshot", "file", "position")}
    return drop_row(**place, stage="clean", rule="forgotten")


class Lineage(NamedTuple):
    """What cleaning depends on beside the input: the recipe's part, its lists, what stays out."""

    store: str
    clean: Clean
    dedup: Dedup
    forgotten: Forgotten = _NOTHING


def clean_cut(tree: Tree, _task: str, cut: Cut, lineage: Lineage) -> Output:
    """Clean what a task reads into numbered parts below a snapshot."""
    origin = Origin(cut.snapshot, cut.source)
    cleaner = Cleaner(origin, open_chain(lineage.store, lineage.clean), lineage.forgotten)
    paths: list[str] = []
    parts: list[dict[str, Any]] = []
    for number, part in enumerate(cleaner.parts(cut.read(lineage.clean.max_record_bytes))):
        name = f"{cut.stem}{number:05d}"
        documents, drops = part.documents(), part.dropped()
        paths += write_part(tree, name, documents, drops, lineage.dedup)
        paths += write_nearest(tree, name, part.nearest.table(lineage.forgotten))
        counts = _count(name, part, documents, drops) | count_scored(documents, lineage.dedup)
        parts.append(counts | {"origin": origin._asdict()})
    return Output(tuple(paths), {"parts": parts})


def write_part(
    tree: Tree, name: str, documents: pa.Table, drops: pa.Table, dedup: Dedup
) -> list[str]:
    """Write the tables and the index of a part; return their paths."""
    clean_path, drop_path = f"clean/{name}.parquet", f"dropped/{name}.parquet"
    write_table(tree.own(clean_path), documents)
    write_table(tree.own(drop_path), drops)
    return [clean_path, drop_path, *write_index(tree, name, documents, dedup)]


def write_nearest(tree: Tree, name: str, nearest: pa.Table) -> list[str]:
    """Write the documents nearest to thresholds, where there are any; return their path."""
    if not len(nearest):
        return []
    write_table(tree.own(nearest_path(name)), nearest)
    return [nearest_path(name)]


def _count(name: str, part: Rows, documents: pa.Table, drops: pa.Table) -> dict[str, Any]:
    return {
        "name": name,
        "documents": len(documents),
        "text_bytes": part.text_bytes,
        "changed": dict(sorted(part.changed.items())),
        "languages": _count_values(documents["language"]),
        "distributions": part.distributions,
        "nearest": part.nearest.places(),
        "records": dict(part.records),
        "unreadable": part.unreadable,
        "dropped": count_rules(drops),
        "dropped_digest": format_digest(digest_table(drops, DROP_SCHEMA.names)),
    }


def count_rules(drops: pa.Table) -> dict[str, int]:
    """Count the rows of a drop table by rule."""
    return _count_values(drops["rule"])


def _count_values(column: pa.ChunkedArray) -> dict[str, int]:
    counted = column.drop_null().value_counts().to_pylist()
    return {each["values"]: each["counts"] for each in sorted(counted, key=itemgetter("values"))}


def kept_mask(tree: Tree, part: str, documents: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell of every document of a part whether it stays: bool [documents]."""
    mask = np.ones(documents, np.bool_)
    rows = read_table(tree.find(f"duplicates/{part}.parquet"), columns=["row"])["row"]
    mask[rows.to_numpy()] = False
    return mask
