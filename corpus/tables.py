"""Parquet and Arrow: rows become records, a batch at a time.

Both need their file's end first (the Arrow stream does not), so what is not a plain file is
decompressed into a temporary one. Every batch is validated before a value is read: offsets of a
broken file would point anywhere. A row group or batch that breaks ends with one `corrupt_file`, and
the next one is read.

A value can stand in a file once for many rows (dictionaries, views, shared prefixes), and values
that are null take no bytes. So what rows become is counted against the file's bytes, as archives
do, and a table of more values than `MAX_RATIO` times its bytes is a bomb too; one row is taken at a
time where a value may be large. A Parquet page and an Arrow batch are the least that is held.
"""

import io
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import repeat
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from corpus.archives import MAX_RATIO, DecompressionBombError, InputFile, check_ratio
from corpus.claims import claimed_by_file, claimed_by_next
from corpus.files import open_reader
from corpus.records import (
    Damage,
    ReadOptions,
    Record,
    bomb,
    columns_of,
    distinct,
    record_of,
    too_long,
)

# Rows turned into Python at once: at most so many, fewer where they are long. A guess between the
# cost of a call and memory.
_ROWS, _HELD_BYTES = 64, 2**25
# A Parquet reader without a buffer takes a whole column chunk: 1.5 GB for one of 1.5 GB, with this
# buffer 0.13 GB (measured).
_BUFFER_BYTES = 2**20
# Encodings by which a value stands in a file once for many rows, or shares what stands before it,
# and the page that holds such values (parquet.thrift: Encoding, PageType).
_DICTIONARY = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
_SHARED_PREFIX = "DELTA_BYTE_ARRAY"
_DICTIONARY_PAGE = 2
# A page header begins with three numbers of at most five bytes, each after its field's byte.
_PAGE_HEADER_BYTES = 18
_ARROW_MAGIC = b"ARROW1"
_BROKEN = (pa.ArrowException, OSError, ValueError, MemoryError)
# Raised for a date of the year 10000, a zone that is not known, two fields of one name.
_NOT_HELD = (ValueError, OverflowError)
_WRAPPED = (pa.DictionaryScalar, pa.RunEndEncodedScalar, pa.UnionScalar, pa.ExtensionScalar)


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
    """Return the rows of every row group or batch; none for a stream, a bomb or a broken file."""
    try:
        if form == "parquet":
            metadata = pq.ParquetFile(data).metadata
            rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
            # A broken footer may count below zero; such a file is read as one group.
            return rows if min(rows, default=0) >= 0 and sum(rows) == metadata.num_rows else []
        size = data.size()
        if not _is_arrow_file(data):
            return []
        check_ratio(claimed_by_file(data), size)
        file = pa.ipc.open_file(data)
        return [len(file.get_batch(n)) for n in range(file.num_record_batches)]
    except DecompressionBombError:
        return []
    except _BROKEN:
        if data.failure is not None:
            raise data.failure from None
        return []


@dataclass
class _Table:
    """An open table, how its rows are read, and how much of them was given."""

    data: Data
    form: str
    options: ReadOptions
    max_bytes: int
    size: int
    given: int = 0

    def give(self, size: int) -> None:
        """Count what a row became; raises where it is too much for the file."""
        self.given += size
        check_ratio(self.given, self.size)


class _TooManyValuesError(Exception):
    """A table claims more values than its bytes can hold; holds how many."""


def read_table(
    data: Data,
    form: str,
    options: ReadOptions,
    max_bytes: int,
    groups: tuple[int, int, int] | None = None,
) -> Iterator[Record | Damage]:
    """Give the rows of a table, or of its groups first to last, the first row's position known.

    What is given is counted from the first of these groups on.
    """
    rows = groups_of(data, form)
    table = _Table(data, form, options, max_bytes, data.size())
    first, last, position = groups or (0, len(rows), 0)
    if not rows:
        yield from _guarded(table, _all_batches(table), position)
        return
    for number in range(first, last):
        end = position + rows[number]
        damage = yield from _guarded(table, _batches(table, number), position, end)
        if damage is not None and damage.rule == "decompression_bomb":
            return
        position = end


def _guarded(
    table: _Table, batches: Iterator[pa.RecordBatch], position: int, end: int = 0
) -> Generator[Record | Damage, None, Damage | None]:
    """Give the rows of batches up to where they break or prove a bomb, and then that damage.

    Rows that should be there, up to `end`, and are not are damage too.
    """
    damage = None
    try:
        for batch in batches:
            for each in _records(batch, position, table):
                position += 1
                yield each
        if position < end:
            detail = f"the rows end, {end - position} before their group says"
            damage = Damage(position + 1, "corrupt_file", detail)
    except _BROKEN as error:
        if table.data.failure is not None:
            raise table.data.failure from None
        damage = Damage(position + 1, "corrupt_file", str(error).partition("\n")[0])
    except DecompressionBombError as error:
        damage = bomb(position + 1, error.ratio, MAX_RATIO)
    except _TooManyValuesError as error:
        ratio = error.args[0] / table.size
        detail = "rows for each byte of the table"
        damage = Damage(position + 1, "decompression_bomb", detail, ratio, MAX_RATIO)
    if damage is not None:
        yield damage
    return damage


def _records(batch: pa.RecordBatch, position: int, table: _Table) -> Iterator[Record | Damage]:
    """Give the rows of a batch, once it is known to be sound."""
    batch.validate(full=True)
    _check_values(position + _count_values(batch), table)
    for part in _parts(batch):
        yield from _rows(part, position, table)
        position += len(part)


def _check_values(count: int, table: _Table) -> None:
    if count > MAX_RATIO * table.size:
        raise _TooManyValuesError(count)


def _count_values(data: pa.RecordBatch | pa.Array) -> int:
    """Return the rows of a batch, or the most values on one level of a column of it."""
    count = len(data)
    if isinstance(data, pa.RecordBatch):
        return max([count, *map(_count_values, data.columns)])
    if isinstance(data, pa.StructArray):
        return max([count, *map(_count_values, data.flatten())])
    # Of lists and maps; of runs the values are fewer than the rows.
    return max(count, _count_values(data.values)) if hasattr(data, "values") else count


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into what is turned into Python at once."""
    most = _ROWS if all(_is_plain(each.type) for each in batch.schema) else 1
    start = 0
    while start < len(batch):
        part = batch.slice(start, most)
        while len(part) > 1 and part.nbytes > _HELD_BYTES:
            part = part.slice(0, len(part) // 2)
        yield part
        start += len(part)


def _is_plain(kind: pa.DataType) -> bool:
    """Tell whether every value of a type has bytes of its own, so that a slice knows its size."""
    shared = ("dictionary", "run_end_encoded", "list_view", "large_list_view")
    views = ("string_view", "binary_view")
    if any(getattr(pa.types, f"is_{name}")(kind) for name in (*shared, *views)):
        return False
    return all(_is_plain(kind.field(number).type) for number in range(kind.num_fields))


def _rows_at_once(rows: int, size: int) -> int:
    """Return how many rows of so large a group are held at a time."""
    return max(1, min(_ROWS, _HELD_BYTES * rows // max(size, 1)))


def _is_arrow_file(data: Data) -> bool:
    head = data.read(len(_ARROW_MAGIC))
    data.seek(0)
    return head == _ARROW_MAGIC


def _batches(table: _Table, number: int) -> Iterator[pa.RecordBatch]:
    data = table.data
    data.seek(0)
    if table.form == "parquet":
        file = pq.ParquetFile(data, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        group = file.metadata.row_group(number)
        check_ratio(group.total_byte_size, table.size)
        rows = _rows_at_once(group.num_rows, group.total_byte_size)
        if group.total_byte_size * _ROWS > _HELD_BYTES:
            # What is broken raises here; asking for a broken column's metadata ends the process.
            next(file.iter_batches(1, row_groups=[number], use_threads=False), None)
            columns = [group.column(each) for each in range(group.num_columns)]
            repeated = sum(_longest_repeated(data, column) for column in columns)
            rows = min(rows, _rows_at_once(1, repeated))
        yield from file.iter_batches(rows, row_groups=[number], use_threads=False)
    else:
        yield pa.ipc.open_file(data).get_batch(number)


def _longest_repeated(data: Data, column: Any) -> int:  # noqa: ANN401 - a column's metadata
    """Return the most bytes of a value that may stand in a column once for many rows."""
    size = int(column.total_uncompressed_size)
    if _SHARED_PREFIX in column.encodings:
        return size
    if not _DICTIONARY & set(column.encodings):
        return 0
    first = min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset)
    data.seek(first)
    kind, page_bytes = _page_header(data.read(_PAGE_HEADER_BYTES))
    return page_bytes if kind == _DICTIONARY_PAGE else 0


def _page_header(head: bytes) -> tuple[int, int]:
    """Return the type of a page and its uncompressed bytes.

    They are the first two fields, zigzag numbers in base 128: Thrift's compact protocol, as
    parquet.thrift's `PageHeader` is written. `15 04 15 90 03` -> (2, 200)
    """
    found: list[int] = []
    at = 0
    for _ in range(2):
        at += 1
        value = shift = 0
        while at < len(head):
            value |= (head[at] & 127) << shift
            shift += 7
            at += 1
            if head[at - 1] < 128:
                break
        found.append(value >> 1)
    return found[0], found[1]


def _all_batches(table: _Table) -> Iterator[pa.RecordBatch]:
    """Read what has no groups: a stream, an empty file, a bomb or a broken file."""
    data = table.data
    data.seek(0)
    if table.form == "parquet":
        file = pq.ParquetFile(data, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        yield from file.iter_batches(_ROWS, use_threads=False)
    elif _is_arrow_file(data):
        check_ratio(claimed_by_file(data), table.size)
        file = pa.ipc.open_file(data)
        yield from (file.get_batch(number) for number in range(file.num_record_batches))
    else:
        yield from _stream(table)


def _stream(table: _Table) -> Iterator[pa.RecordBatch]:
    data = table.data
    stream = pa.ipc.open_stream(data)
    while True:
        start = data.tell()
        check_ratio(claimed_by_next(data, start), table.size)
        data.seek(start)
        try:
            yield stream.read_next_batch()
        except StopIteration:
            return


def _rows(batch: pa.RecordBatch, position: int, table: _Table) -> Iterator[Record | Damage]:
    names, twice = columns_of(batch.schema.names, table.options)
    columns = [_values(column) for column in batch.columns]
    rows = zip(*columns, strict=True) if columns else repeat((), len(batch))
    for row, values in enumerate(rows, 1):
        table.give(sum(len(value) for value in values if isinstance(value, str | bytes)))
        if twice is not None:
            yield Damage(position + row, "invalid_record", twice)
        else:
            fields = dict(zip(names, values, strict=True))
            yield _bounded(record_of(fields, position + row, table.options), table.max_bytes)


def _values(column: pa.Array) -> list[Any]:
    """Return a column as Python's values, those that Python cannot hold as strings."""
    with suppress(*_NOT_HELD):
        return list(column.to_pylist())
    return [_value(each) for each in column]


def _value(value: pa.Scalar) -> Any:  # noqa: ANN401 - whatever a column holds
    with suppress(*_NOT_HELD):
        return value.as_py()
    if isinstance(value, pa.MapScalar):
        return list(zip(*map(_values, value.values.flatten()), strict=True))
    if isinstance(value, pa.ListScalar):
        return _values(value.values)
    if isinstance(value, pa.StructScalar):
        names = distinct([field.name for field in value.type])
        return {name: _value(value[number]) for number, name in enumerate(names)}
    if isinstance(value, _WRAPPED):
        return _value(value.value)
    zone = getattr(value.type, "tz", None)
    # Arrow need not know the zone either; what it keeps is the time in UTC.
    plain = value if zone is None else value.cast(pa.timestamp(value.type.unit))
    return plain.cast(pa.string()).as_py() + ("" if zone is None else "Z")


def _bounded(record: Record | Damage, max_bytes: int) -> Record | Damage:
    if isinstance(record, Damage):
        return record
    size = len(record.page) or len(record.text)
    if size * 4 > max_bytes and not record.page:
        size = len(record.text.encode("utf-8", "replace"))
    return too_long(record.position, size, max_bytes) if size > max_bytes else record
