"""Parquet and Arrow: rows become records, a batch at a time.

Both need their file's end first (the Arrow stream does not), so what is not a plain file is
decompressed into a temporary one. Every batch is validated before a value is read: offsets of a
broken file would point anywhere. A row group or batch that breaks ends with one `corrupt_file`, and
the next one is read. Rows without a value take no bytes, so a few bytes can claim any number of
them: a table of more rows than `MAX_RATIO` times its bytes is a bomb.
"""

import io
import tempfile
from collections.abc import Iterator
from itertools import repeat
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.archives import MAX_RATIO, InputFile
from corpus.files import open_reader
from corpus.records import Damage, ReadOptions, Record, record_of, too_long

# Rows turned into Python at once: at most so many, fewer where they are long. A guess between the
# cost of a call and memory.
_ROWS, _HELD_BYTES = 64, 2**25
# A Parquet reader without a buffer takes a whole column chunk: 1.5 GB for one of 1.5 GB, with this
# buffer 0.13 GB (measured).
_BUFFER_BYTES = 2**20
_ARROW_MAGIC = b"ARROW1"
_BROKEN = (pa.ArrowException, OSError, ValueError, MemoryError)


class Data(io.RawIOBase):
    """A file read at any place, which notes a failure of the storage apart from broken data."""

    def __init__(self, raw: IO[bytes]) -> None:
        """Take over an open file."""
        super().__init__()
        self.failure: OSError | None = None
        self._raw = raw

    def readable(self) -> bool:
        """Say so, as pyarrow asks."""
        return True

    def seekable(self) -> bool:
        """Say so, as pyarrow asks."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read bytes."""
        try:
            return self._raw.read(size)
        except OSError as failure:
            self.failure = failure
            raise

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._raw.tell()

    def size(self) -> int:
        """Return how many bytes there are, and stand at the first."""
        size = self._raw.seek(0, io.SEEK_END)
        self._raw.seek(0)
        return size

    def close(self) -> None:
        """Close the file."""
        self._raw.close()
        super().close()


def open_table(file: InputFile) -> Data:
    """Return the decompressed file as one that can be read at any place; the caller closes it."""
    if file.codec is None:
        return Data(open_reader(file.path))
    target = tempfile.TemporaryFile()  # noqa: SIM115 - handed on
    try:
        for chunk in file.chunks():
            target.write(chunk)
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return Data(target)


def groups_of(data: Data, form: str) -> list[int]:
    """Return the rows of every row group or batch; none for a stream or a broken file."""
    try:
        if form == "parquet":
            metadata = pq.ParquetFile(data).metadata
            rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
            # A broken footer may count below zero; such a file is read as one group.
            return rows if min(rows, default=0) >= 0 and sum(rows) == metadata.num_rows else []
        if not _is_arrow_file(data):
            return []
        file = pa.ipc.open_file(data)
        return [len(file.get_batch(n)) for n in range(file.num_record_batches)]
    except _BROKEN:
        if data.failure is not None:
            raise data.failure from None
        return []


def read_table(
    data: Data,
    form: str,
    options: ReadOptions,
    max_bytes: int,
    groups: tuple[int, int, int] | None = None,
) -> Iterator[Record | Damage]:
    """Give the rows of a table, or of its groups first to last, the first row's position known."""
    rows = groups_of(data, form)
    data.seek(0)
    first, last, position = groups or (0, len(rows), 0)
    if not rows:
        yield from _guarded(data, _all_batches(data, form), position, (options, max_bytes))
        return
    for number in range(first, last):
        yield from _guarded(data, _batches(data, form, number), position, (options, max_bytes))
        position += rows[number]


def _guarded(
    data: Data, batches: Iterator[pa.RecordBatch], position: int, limits: tuple[ReadOptions, int]
) -> Iterator[Record | Damage]:
    """Give the rows of batches up to where they break or prove a bomb, and then that damage."""
    size = data.size()
    try:
        for batch in batches:
            batch.validate(full=True)
            if position + len(batch) > MAX_RATIO * size:
                ratio = (position + len(batch)) / size
                detail = "rows for each byte of the table"
                yield Damage(position + 1, "decompression_bomb", detail, ratio, MAX_RATIO)
                return
            step = _rows_at_once(len(batch), batch.nbytes)
            for start in range(0, len(batch), step):
                yield from _rows(batch.slice(start, step), position, *limits)
                position += min(step, len(batch) - start)
    except _BROKEN as error:
        if data.failure is not None:
            raise data.failure from None
        yield Damage(position + 1, "corrupt_file", str(error).partition("\n")[0])


def _rows_at_once(rows: int, size: int) -> int:
    """Return how many rows of so large a group are held at a time."""
    return max(1, min(_ROWS, _HELD_BYTES * rows // max(size, 1)))


def _is_arrow_file(data: Data) -> bool:
    head = data.read(len(_ARROW_MAGIC))
    data.seek(0)
    return head == _ARROW_MAGIC


def _batches(data: Data, form: str, number: int) -> Iterator[pa.RecordBatch]:
    if form == "parquet":
        file = pq.ParquetFile(data, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        group = file.metadata.row_group(number)
        rows = _rows_at_once(group.num_rows, group.total_byte_size)
        yield from file.iter_batches(rows, row_groups=[number], use_threads=False)
    else:
        yield pa.ipc.open_file(data).get_batch(number)


def _all_batches(data: Data, form: str) -> Iterator[pa.RecordBatch]:
    """Read what has no groups: a stream, an empty file or a broken one."""
    if form == "parquet":
        file = pq.ParquetFile(data, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        yield from file.iter_batches(_ROWS, use_threads=False)
    elif _is_arrow_file(data):
        file = pa.ipc.open_file(data)
        yield from (file.get_batch(number) for number in range(file.num_record_batches))
    else:
        yield from pa.ipc.open_stream(data)


def _rows(
    batch: pa.RecordBatch, position: int, options: ReadOptions, max_bytes: int
) -> Iterator[Record | Damage]:
    names = batch.schema.names
    columns = [batch.column(n).to_pylist() for n in range(len(names))]
    rows = zip(*columns, strict=True) if columns else repeat((), len(batch))
    for row, values in enumerate(rows, 1):
        record = record_of(dict(zip(names, values, strict=True)), position + row, options)
        yield _bounded(record, max_bytes)


def _bounded(record: Record | Damage, max_bytes: int) -> Record | Damage:
    if isinstance(record, Damage):
        return record
    size = len(record.page) or len(record.text)
    if size * 4 > max_bytes and not record.page:
        size = len(record.text.encode("utf-8", "replace"))
    return too_long(record.position, size, max_bytes) if size > max_bytes else record
