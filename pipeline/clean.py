"""Clean: one raw file becomes documents that passed the rules, drop records and an index.

A document's text and verdict depend on that document and the recipe alone; `pipeline/chain.py` is
what is done to it. A file's rows are written in parts of bounded size, each sorted by (id, file,
position), so memory does not grow with the file; the parts follow from the file's content, never
from who did the work.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from corpus.archives import InputFile
from corpus.documents import (
    DOCUMENT_SCHEMA,
    DROP_SCHEMA,
    digest_table,
    drop_row,
    drops_table,
    format_digest,
)
from corpus.files import size_bytes
from corpus.forgotten import Forgotten
from corpus.readers import TABLES, read_records
from corpus.recipe import Clean, Dedup
from corpus.records import Damage, Record
from corpus.snapshots import Input, Tree
from corpus.splits import Piece, open_piece, read_piece
from pipeline.chain import Chain, open_chain, record_id
from pipeline.distributions import add_counts
from pipeline.hashes import text_hashes
from pipeline.jobs import Output
from pipeline.nearest import Nearest, nearest_path
from pipeline.parquet import read_table, write_table
from pipeline.preference import count_scored
from pipeline.rules import Failure
from pipeline.signatures import write_index

# Raised by hand when rows, parts, their order or what is known of them change.
VERSION = 3

_NOTHING = Forgotten()

# What a part holds; a task needs a few times this. Guess that fits 2 GB a task.
PART_BYTES = 128 * 2**20
# What goes through the chain at a time, raw: large beside the cost of a call, small beside a part.
_BATCH_RECORDS, _BATCH_BYTES = 1024, 4 * 2**20
# What a row takes beside its text and meta, also a dropped one's: measured with tracemalloc, 1 KB.
_ROW_BYTES = 1024
# Broken records are all that readers drop, but for what is none of a document's, and pages with no
# text in them. Of a file and rule the first are told, those a reader looks at: a guess.
_NO_DOCUMENTS, _BROKEN_PAGES = ("warc_", "http_status", "wikipedia_"), "page_"
FIRST_PLACES = 3


class Origin(NamedTuple):
    """Where records come from: the snapshot that delivers them, their source and their file."""

    snapshot: str
    source: str
    file: str


@dataclass
class Rows:
    """Documents and drops of one part of a file, in the order they were read.

    unreadable: by rule, how many records are broken, and of the first of them position, value,
    threshold and detail.
    """

    nearest: Nearest
    tables: list[pa.Table] = field(default_factory=list)
    drops: list[dict[str, Any]] = field(default_factory=list)
    changed: dict[str, int] = field(default_factory=dict)
    distributions: dict[str, dict[str, int]] = field(default_factory=dict)
    unreadable: dict[str, dict[str, Any]] = field(default_factory=dict)
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
        known = self.unreadable.setdefault(row["rule"], {"count": 0, "first": []})
        known["count"] += 1
        if len(known["first"]) < FIRST_PLACES:
            first = [row[name] for name in ("position", "value", "threshold", "detail")]
            known["first"].append(first)


class Cleaner(NamedTuple):
    """What a task cleans with: where its records come from, the chain and what stays out."""

    origin: Origin
    chain: Chain
    forgotten: Forgotten = _NOTHING

    def parts(self, records: Iterable[Record | Damage]) -> Iterator[Rows]:
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

    def _add(self, part: Rows, batch: list[Record | Damage]) -> None:
        part.held_bytes += _ROW_BYTES * len(batch)
        for each in batch:
            if isinstance(each, Damage):
                part.drops.append(self._damage_row(each))
                if not each.rule.startswith(_NO_DOCUMENTS):
                    part.note_unreadable(part.drops[-1])
        records = [each for each in batch if isinstance(each, Record)]
        if not records:
            return
        judged = self.chain.clean(records, self.origin.source)
        for record, failure in zip(records, judged.failures, strict=True):
            if failure is not None:
                part.drops.append(self._failure_row(record, failure))
                if failure.rule.startswith(_BROKEN_PAGES):
                    part.note_unreadable(part.drops[-1])
        part.nearest.add(records, judged)
        passed = [records[row] for row in judged.rows.tolist()]
        languages = [judged.languages[row] for row in judged.rows.tolist()]
        documents = self._without_forgotten(part, self._table(passed, languages, judged.texts))
        size = pa.compute.sum(pa.compute.binary_length(documents["text"])).as_py() or 0
        metas = pa.compute.sum(pa.compute.binary_length(documents["meta"])).as_py() or 0
        part.tables.append(documents)
        part.text_bytes += size
        part.held_bytes += size + metas
        part.distributions = add_counts([part.distributions, judged.distributions])
        for what, count in judged.counts.items():
            part.changed[what] = part.changed.get(what, 0) + count

    def _place(self, position: int) -> dict[str, Any]:
        return self.origin._asdict() | {"position": position}

    def _damage_row(self, damage: Damage) -> dict[str, Any]:
        return drop_row(
            **self._place(damage.position),
            stage="read",
            rule=damage.rule,
            value=damage.value,
            threshold=damage.threshold,
            detail=damage.detail,
        )

    def _failure_row(self, record: Record, failure: Failure) -> dict[str, Any]:
        return drop_row(
            **self._place(record.position),
            id=record_id(self.origin.source, record),
            stage="clean",
            rule=failure.rule,
            value=_float(failure.value),
            threshold=_float(failure.threshold),
            detail=failure.detail,
        )

    def _table(
        self, records: list[Record], languages: list[str | None], texts: pa.LargeStringArray
    ) -> pa.Table:
        origin, count = self.origin, len(records)
        columns = {
            "id": [record_id(origin.source, record) for record in records],
            "text": texts.cast(pa.string()),
            "source": [origin.source] * count,
            "url": [record.url for record in records],
            "language": languages,
            "meta": [record.meta for record in records],
            "snapshot": [origin.snapshot] * count,
            "file": [origin.file] * count,
            "position": [record.position for record in records],
            "text_hash": text_hashes(texts),
        }
        return pa.Table.from_pydict(columns, schema=DOCUMENT_SCHEMA)

    def _without_forgotten(self, part: Rows, documents: pa.Table) -> pa.Table:
        if self.forgotten.is_empty:
            return documents
        columns = ["id", "source", "url", "text_hash", "snapshot", "file", "position"]
        rows = documents.select(columns).to_pylist()
        stays = [not self.forgotten.covers(row) for row in rows]
        part.drops += [forgotten_row(rows[n]) for n, each in enumerate(stays) if not each]
        return documents.filter(pa.array(stays, pa.bool_()))


def batches(records: Iterable[Record | Damage]) -> Iterator[list[Record | Damage]]:
    """Cut records into what goes through the chain at a time."""
    batch: list[Record | Damage] = []
    held = 0
    for record in records:
        batch.append(record)
        if isinstance(record, Record):
            held += len(record.text) + len(record.page)
        if len(batch) == _BATCH_RECORDS or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


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


@contextmanager
def records_of(
    source: Input, max_record_bytes: int, piece: Piece | None = None
) -> Iterator[Iterator[Record | Damage]]:
    """Give the records of a raw file or a piece of it; in the end check that it is as listed."""
    limit = max_record_bytes
    if piece is None:
        file = InputFile(source.path)
        records = read_records(file, source.format, limit, source.options)
    else:
        file = open_piece(source.path, source.format, piece)
        records = read_piece(file, source.format, piece, limit, source.options)
    try:
        yield records
        if piece is None:
            check_unchanged(file.checksum(), source.checksum, source)
        elif source.format in TABLES:  # where each piece would have to read the whole file
            check_unchanged(str(size_bytes(source.path)), str(source.size_bytes), source)
        else:
            check_unchanged(file.checksum(), piece.checksum, source)
    finally:
        file.close()


def clean_file(
    tree: Tree,
    _task: str,
    source: Input,
    lineage: Lineage,
    given: tuple[int, Piece] | None = None,
) -> Output:
    """Clean one raw file, or a numbered piece of it, into numbered parts below a snapshot."""
    number, piece = given or (0, None)
    with records_of(source, lineage.clean.max_record_bytes, piece) as records:
        named = (source, f"{number:05d}." if given else "")
        return _write_parts(tree, records, named, lineage)


def _write_parts(
    tree: Tree,
    records: Iterable[Record | Damage],
    named: tuple[Input, str],
    lineage: Lineage,
) -> Output:
    source, piece = named
    origin = Origin(source.snapshot, source.source, source.name)
    cleaner = Cleaner(origin, open_chain(lineage.store, lineage.clean), lineage.forgotten)
    paths: list[str] = []
    parts: list[dict[str, Any]] = []
    for number, part in enumerate(cleaner.parts(records)):
        name = f"{input_name(source)}-{piece}{number:05d}"
        documents, drops = part.documents(), part.dropped()
        paths += write_part(tree, name, documents, drops, lineage.dedup)
        paths += write_nearest(tree, name, part.nearest.table(lineage.forgotten))
        counts = _count(name, part, documents, drops) | count_scored(documents, lineage.dedup)
        parts.append(counts | {"origin": origin._asdict()})
    return Output(tuple(paths), {"parts": parts})


def input_name(source: Input) -> str:
    """Name what comes of an input after its source and its identity."""
    identity = orjson.dumps(source.identity)
    return f"{source.source}-{hashlib.sha256(identity).hexdigest()[:16]}"


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


def check_unchanged(found: str, known: str, source: Input) -> None:
    """Refuse an input whose checksum is not the one that it was listed with."""
    if found != known:
        raise ValueError(
            f"{source.path} changed since it was listed: its checksum was {known} "
            f"and is {found}: give the new content a label of its own, or put the old file back"
        )
