"""Clean: one raw file becomes documents that passed the rules, drop records and an index.

The cleaned text is NFC with Unix newlines, without control characters, stripped. A document's text
and verdict depend on that document and the recipe alone. A file's rows are written in parts of
bounded size, each sorted by (id, file, position), so memory does not grow with the file; the parts
follow from the file's content, never from who did the work.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.documents import (
    DOCUMENT_SCHEMA,
    DROP_SCHEMA,
    digest_table,
    document_id,
    drop_row,
    drops_table,
    format_digest,
    text_hash,
)
from corpus.files import is_remote, read_bytes, writing
from corpus.forgotten import Forgotten
from corpus.readers import Damage, InputFile, Record, read_records
from corpus.recipe import Clean, Dedup
from corpus.snapshots import Input, Tree
from pipeline.jobs import Output
from pipeline.rules import Failure, gopher_quality
from pipeline.signatures import write_index

# Raised by hand when the cleaned text changes.
VERSION = 1

_NOTHING = Forgotten()

# What a part holds; a task needs a few times this. Guess that fits 2 GB a task.
PART_BYTES = 128 * 2**20
# What a row takes beside its text and meta, also a dropped one's: measured with tracemalloc, 1 KB.
_ROW_BYTES = 1024

# Every control character but tab and newline, and the byte-order mark.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
# What `str.splitlines` takes for the end of a line: form feeds, say, part words too.
_NEWLINES = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def clean_text(text: str) -> str:
    """Return the text as it is kept."""
    text = _CONTROLS.sub("", _NEWLINES.sub("\n", text))
    return unicodedata.normalize("NFC", text).strip()


def judge(text: str, config: Clean) -> Failure | None:
    """Return the rule that a cleaned text fails, or None."""
    if not text:
        return Failure("empty", 0, 1)
    if "gopher_quality" in config.rules:
        return gopher_quality(text)
    return None


class Origin(NamedTuple):
    """Where records come from: the snapshot that delivers them, their source and their file."""

    snapshot: str
    source: str
    file: str


@dataclass
class Rows:
    """Documents and drops of one part of a file, in the order they were read."""

    documents: list[dict[str, Any]] = field(default_factory=list)
    drops: list[dict[str, Any]] = field(default_factory=list)
    text_bytes: int = 0
    held_bytes: int = 0

    def tables(self) -> tuple[pa.Table, pa.Table]:
        """Return documents and drops as tables in canonical order."""
        self.documents.sort(key=lambda row: (row["id"], row["file"], row["position"]))
        documents = pa.Table.from_pylist(self.documents, schema=DOCUMENT_SCHEMA)
        return documents, drops_table(self.drops)


def clean_records(
    records: Iterable[Record | Damage],
    origin: Origin,
    config: Clean,
    forgotten: Forgotten = _NOTHING,
) -> Iterator[Rows]:
    """Turn records into parts; every record becomes one document or one drop."""
    part = Rows()
    for record in records:
        place = origin._asdict() | {"position": record.position}
        _add(part, record, place, (config, forgotten))
        if part.held_bytes >= PART_BYTES:
            yield part
            part = Rows()
    yield part


def _add(
    part: Rows,
    record: Record | Damage,
    place: dict[str, Any],
    lineage: tuple[Clean, Forgotten],
) -> None:
    config, forgotten = lineage
    part.held_bytes += _ROW_BYTES
    if isinstance(record, Damage):
        part.drops.append(
            drop_row(
                **place,
                stage="read",
                rule=record.rule,
                value=record.value,
                threshold=record.threshold,
                detail=record.detail,
            )
        )
        return
    place["id"] = document_id(place["source"], record.key, record.text)
    text = clean_text(record.text)
    failure = judge(text, config)
    if failure is not None:
        part.drops.append(drop_row(**place, stage="clean", **_as_floats(failure)))
        return
    document = _document(record, text, place)
    if forgotten.covers(document):
        part.drops.append(forgotten_row(document))
        return
    part.documents.append(document)
    text_bytes = len(text.encode())
    part.text_bytes += text_bytes
    part.held_bytes += text_bytes + len(record.meta or "")


def forgotten_row(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the drop row of a document that was asked to be forgotten: its place, not its id."""
    place = {name: document[name] for name in ("source", "snapshot", "file", "position")}
    return drop_row(**place, stage="clean", rule="forgotten")


def _as_floats(failure: Failure) -> dict[str, Any]:
    return {
        "rule": failure.rule,
        "value": float(failure.value),
        "threshold": float(failure.threshold),
    }


def _document(record: Record, text: str, place: dict[str, Any]) -> dict[str, Any]:
    return {
        **place,
        "text": text,
        "url": record.url,
        "language": record.language,
        "meta": record.meta,
        "text_hash": text_hash(text),
    }


def clean_file(
    tree: Tree, _task: str, source: Input, lineage: tuple[Clean, Dedup], forgotten: Forgotten
) -> Output:
    """Clean one raw file into numbered parts below a snapshot's directory."""
    clean, dedup = lineage
    origin = Origin(source.snapshot, source.source, source.name)
    paths: list[str] = []
    parts: list[dict[str, Any]] = []
    file = InputFile(source.path)
    try:
        records = read_records(file, source.format, clean.max_record_bytes, source.options)
        for number, part in enumerate(clean_records(records, origin, clean, forgotten)):
            name = f"{input_name(source)}-{number:05d}"
            documents, drops = part.tables()
            paths += write_part(tree, name, documents, drops, dedup)
            parts.append(_count(name, part, documents, drops))
        _check_unchanged(file, source)
    finally:
        file.close()
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


def _count(name: str, part: Rows, documents: pa.Table, drops: pa.Table) -> dict[str, Any]:
    return {
        "name": name,
        "documents": len(documents),
        "text_bytes": part.text_bytes,
        "dropped": count_rules(drops),
        "dropped_digest": format_digest(digest_table(drops, DROP_SCHEMA.names)),
    }


def count_rules(drops: pa.Table) -> dict[str, int]:
    """Count the rows of a drop table by rule."""
    counted = drops.group_by("rule").aggregate([("rule", "count")]).to_pylist()
    return {row["rule"]: row["rule_count"] for row in sorted(counted, key=lambda row: row["rule"])}


def write_table(path: str, table: pa.Table) -> None:
    """Commit a table as zstd Parquet with row groups that a few documents can be read from."""
    with writing(path) as stream:
        pq.write_table(table, stream, compression="zstd", row_group_size=1024)


def read_table(path: str, **options: Any) -> pa.Table:  # noqa: ANN401 - pyarrow's own options
    """Read a Parquet file of ours; `ValueError` names a damaged one."""
    try:
        source = pa.BufferReader(read_bytes(path)) if is_remote(path) else path
        return pq.read_table(source, **options)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged or missing: {error}") from error


def kept_mask(tree: Tree, part: str, documents: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Tell of every document of a part whether it stays: bool [documents]."""
    mask = np.ones(documents, np.bool_)
    rows = read_table(tree.find(f"duplicates/{part}.parquet"), columns=["row"])["row"]
    mask[rows.to_numpy()] = False
    return mask


def _check_unchanged(file: InputFile, source: Input) -> None:
    found = file.checksum()
    if found != source.checksum:
        raise ValueError(
            f"{source.path} changed since it was listed: its checksum was {source.checksum} "
            f"and is {found}: give the new content a label of its own, or put the old file back"
        )
