"""Parquet and Arrow: rows become records, a batch at a time.

Both need their file's end first (the Arrow stream does not), so what is not a plain file is
decompressed into a temporary one. Every batch is validated before a value is read: offsets of a
broken file would point anywhere. Broken data ends the file with one `corrupt_file`.
"""

import tempfile
from collections.abc import Iterator
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.archives import InputFile
from corpus.files import open_reader
from corpus.records import Damage, ReadOptions, Record, record_of, too_long

# Rows turned into Python at once: guess between the cost a call and memory at 64 MiB a row.
_ROWS = 64
_ARROW_MAGIC = b"ARROW1"


def open_table(file: InputFile) -> IO[bytes]:
    """Return the decompressed file as one that can be read at any place; the caller closes it."""
    if file.codec is None:
        return open_reader(file.path)
    target = tempfile.TemporaryFile()  # noqa: SIM115 - handed on
    for chunk in file.chunks():
        target.write(chunk)
    target.seek(0)
    return target


def groups_of(data: IO[bytes], form: str) -> list[int]:
    """Return the number of rows of every row group or batch of a file; an Arrow stream has one."""
    if form == "parquet":
        metadata = pq.ParquetFile(data).metadata
        return [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    if not _is_arrow_file(data):
        return []
    return [1] * int(pa.ipc.open_file(data).num_record_batches)


def read_table(
    data: IO[bytes],
    form: str,
    options: ReadOptions,
    max_bytes: int,
    groups: tuple[int, int, int] | None = None,
) -> Iterator[Record | Damage]:
    """Give the rows of a table, or of its groups first to last, the first row's position known."""
    position = groups[2] if groups else 0
    try:
        for batch in _batches(data, form, groups):
            batch.validate(full=True)
            for start in range(0, len(batch), _ROWS):
                yield from _rows(batch.slice(start, _ROWS), position, options, max_bytes)
                position += min(_ROWS, len(batch) - start)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        yield Damage(position + 1, "corrupt_file", str(error).splitlines()[0] if str(error) else "")


def _is_arrow_file(data: IO[bytes]) -> bool:
    head = data.read(len(_ARROW_MAGIC))
    data.seek(0)
    return head == _ARROW_MAGIC


def _batches(
    data: IO[bytes], form: str, groups: tuple[int, int, int] | None
) -> Iterator[pa.RecordBatch]:
    if form == "parquet":
        file = pq.ParquetFile(data, pre_buffer=False)
        chosen = range(*groups[:2]) if groups else range(file.metadata.num_row_groups)
        yield from file.iter_batches(_ROWS, row_groups=list(chosen), use_threads=False)
    elif _is_arrow_file(data):
        reader = pa.ipc.open_file(data)
        chosen = range(*groups[:2]) if groups else range(reader.num_record_batches)
        for number in chosen:
            yield reader.get_batch(number)
    else:
        yield from pa.ipc.open_stream(data)


def _rows(
    batch: pa.RecordBatch, position: int, options: ReadOptions, max_bytes: int
) -> Iterator[Record | Damage]:
    names = batch.schema.names
    columns = [batch.column(n).to_pylist() for n in range(len(names))]
    for row, values in enumerate(zip(*columns, strict=True), 1):
        record = record_of(dict(zip(names, values, strict=True)), position + row, options)
        yield _bounded(record, max_bytes)


def _bounded(record: Record | Damage, max_bytes: int) -> Record | Damage:
    if isinstance(record, Damage):
        return record
    size = len(record.page) or len(record.text)
    if size * 4 > max_bytes and not record.page:
        size = len(record.text.encode("utf-8", "replace"))
    return too_long(record.position, size, max_bytes) if size > max_bytes else record
