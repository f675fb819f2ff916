"""Records out of tables: CSV and TSV, Parquet, Arrow files and streams.

A row becomes a record by the names of its columns, as an object of JSON does. Rows come in batches
of bounded size, so memory does not grow with the file; Parquet needs the raw file at any place and
is therefore not read from within an archive.
"""

import base64
import csv
import datetime
import decimal
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.archives import CorruptArchiveError, InputFile
from corpus.records import Damage, Keys, Record, too_long

_ROWS = 256  # a batch: small beside a task's memory also where a row is a megabyte. Guess


def record_of(fields: Mapping[str, Any], position: int, keys: Keys) -> Record | Damage:
    """Make a record of named fields; what is no text, id, URL or language is kept as meta."""

    def text_of(name: str) -> str | None:
        value = fields.get(name)
        return value if isinstance(value, str) and value else None

    text = fields.get(keys.text)
    if not isinstance(text, str):
        return Damage(position, "invalid_record", f"no string under the key {keys.text}")
    identity = fields.get(keys.id)
    is_number = isinstance(identity, int) and not isinstance(identity, bool)
    key = str(identity) if is_number else text_of(keys.id) or text_of(keys.url)
    rest = {name: value for name, value in fields.items() if name not in keys[:4]}
    meta = orjson.dumps(rest, default=_plain, option=_META).decode() if rest else None
    page = text.encode() if keys.markup == "html" else b""
    return Record(
        position, key, "" if page else text, text_of(keys.url), text_of(keys.language), meta,
        keys.markup if page else "none", page, "utf-8" if page else None,
    )  # fmt: skip


_META = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS


def _plain(value: Any) -> Any:  # noqa: ANN401 - what JSON has no word for
    """Write what tables hold and JSON does not."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def read_csv(
    lines: Iterator[tuple[int, bytes | Damage]], delimiter: str, limit: int, keys: Keys
) -> Iterator[Record | Damage]:
    """Give the rows below the header of CSV, or of TSV without quoting; positions count them.

    `lines` are numbered, an overlong one is damage already. A quoted field that never ends is cut
    at the limit, and what follows it is read as rows again.
    """
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    csv.field_size_limit(min(limit, 2**31 - 1))
    position, header = 0, list[str]()
    for row in _rows(_decoded(lines), delimiter, quoting):
        if not header:
            if isinstance(row, Damage) or keys.text not in row:
                found = row.detail if isinstance(row, Damage) else ", ".join(row)
                detail = f"no column {keys.text} in the header: {found[:200]}"
                yield Damage(1, "invalid_record", detail)
                return
            header = row
            continue
        position += 1
        yield _row_of(row, header, position, keys)


def _row_of(
    row: list[str] | Damage, header: list[str], position: int, keys: Keys
) -> Record | Damage:
    if isinstance(row, Damage):
        return row._replace(position=position)
    if len(row) != len(header):
        detail = f"{len(row)} fields, the header has {len(header)}"
        return Damage(position, "invalid_record", detail)
    try:
        "".join(row).encode()
    except UnicodeEncodeError:
        return Damage(position, "invalid_utf8", "a byte that is no UTF-8")
    return record_of(dict(zip(header, row, strict=True)), position, keys)


class _OverlongError(Exception):
    """A line beyond the size limit; the argument is its damage."""


def _rows(lines: Iterator[str], delimiter: str, quoting: int) -> Iterator[list[str] | Damage]:
    """Give the fields of every row, or why it has none; blank lines are none."""
    while True:
        rows = csv.reader(_Lines(lines), delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
        try:
            yield from (row for row in rows if row)
            return
        except csv.Error as error:
            yield Damage(0, "invalid_record", str(error))
        except _OverlongError as error:
            yield error.args[0]


class _Lines:
    """Hands lines on; an error in one does not end those after it, as it would in a generator."""

    def __init__(self, lines: Iterator[str]) -> None:
        self.lines = lines

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = next(self.lines)
        if isinstance(line, Damage):
            raise _OverlongError(line)
        return line


def _decoded(lines: Iterator[tuple[int, bytes | Damage]]) -> Iterator[Any]:
    for number, line in lines:
        if isinstance(line, Damage):
            yield line
        else:
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            yield text.decode(errors="surrogateescape") + "\n"


def read_parquet(file: InputFile, limit: int, keys: Keys) -> Iterator[Record | Damage]:
    """Give the rows of a Parquet file; row groups are read in batches."""
    with file.seekable() as stream:
        position = 0
        try:
            table = pq.ParquetFile(stream)
            for batch in table.iter_batches(_ROWS):
                yield from _records(batch, position, limit, keys)
                position += len(batch)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _broken(file, error) from error


def read_arrow(file: InputFile, limit: int, keys: Keys) -> Iterator[Record | Damage]:
    """Give the rows of an Arrow IPC file (Feather) or stream."""
    with file.seekable() as stream:
        position = 0
        try:
            for batch in _arrow_batches(stream):
                for start in range(0, len(batch), _ROWS):
                    part = batch.slice(start, _ROWS)
                    yield from _records(part, position, limit, keys)
                    position += len(part)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _broken(file, error) from error


def _arrow_batches(stream: BinaryIO) -> Iterator[pa.RecordBatch]:
    magic = stream.read(6)
    stream.seek(0)
    if magic == b"ARROW1":
        reader = pa.ipc.open_file(stream)
        yield from (reader.get_batch(n) for n in range(reader.num_record_batches))
    else:
        yield from pa.ipc.open_stream(stream)


def _broken(file: InputFile, error: Exception) -> Exception:
    """Tell data that is broken from a disk that fails: what cannot be read at all raises."""
    try:
        with file.seekable() as stream:
            while stream.read(2**20):
                pass
    except OSError as failure:
        return failure
    return CorruptArchiveError(str(error).partition("\n")[0][:200])


def _records(
    batch: pa.RecordBatch, before: int, limit: int, keys: Keys
) -> Iterator[Record | Damage]:
    batch.validate(full=True)
    for position, row in enumerate(batch.to_pylist(), before + 1):
        text = row.get(keys.text)
        size = len(text.encode()) if isinstance(text, str) else 0
        yield too_long(position, size, limit) if size > limit else record_of(row, position, keys)
