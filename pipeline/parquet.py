"""Our Parquet files: how they are written, and read whole, by columns, or a few rows of them.

A file has row groups small enough that one document of it can be read alone, in a bucket too. A
file that is damaged or missing is a `ValueError` with its name, whichever way it is read.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.files import RemoteError, is_remote, read_bytes, read_range, size_bytes, writing

# What a row group holds. Measured on 60 MB of prose, documents of 5.2 kB: to read one of them takes
# 9.1 ms of CPU with groups of 1,024 rows, 2.8 of 256, 2.6 of 128 and 3.8 of 64, where the footer
# costs more than the group; with 256 the file is 0.4 % larger.
_GROUP_BYTES, _MIN_GROUP_ROWS, _MAX_GROUP_ROWS = 2**20, 64, 1024
# Row groups of a file in a bucket that are asked for one by one, as a share of all of them; where
# more are wanted the file is read whole. Guess.
_FEW_GROUPS = 0.25
# Of a table that is read by columns: of the statistics of documents, some 350 bytes a row, 6 MB.
COLUMN_GROUP_ROWS = 2**14


def write_table(path: str, table: pa.Table) -> None:
    """Commit a table as zstd Parquet with row groups that a few documents can be read from."""
    rows = len(table) * _GROUP_BYTES // max(table.nbytes, 1)
    with writing(path) as stream:
        pq.write_table(
            table,
            stream,
            compression="zstd",
            row_group_size=min(max(rows, _MIN_GROUP_ROWS), _MAX_GROUP_ROWS),
        )


def write_tables(path: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Commit tables as one zstd Parquet file, a row group of them held at a time; count rows."""
    total = 0
    with writing(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        held: list[pa.Table] = []
        for table in tables:
            held.append(table)
            total += len(table)
            if sum(map(len, held)) >= COLUMN_GROUP_ROWS:
                writer.write_table(pa.concat_tables(held))
                held = []
        if held:
            writer.write_table(pa.concat_tables(held))
    return total


class _Ranges(io.RawIOBase):
    """A file in a bucket, of which no more is read than what is asked for."""

    def __init__(self, path: str) -> None:
        """Learn how long it is."""
        self._path, self._size, self._at = path, size_bytes(path), 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that any place can be gone to."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Read some bytes from here, or all that are left."""
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        start, self._at = self._at, max(self._at, stop)
        return read_range(self._path, start, stop) if stop > start else b""


@contextmanager
def _source_of(
    path: str, *, is_whole: bool = True
) -> Iterator[pa.BufferReader | pa.PythonFile | str]:
    """Give what pyarrow opens for a file of ours; `ValueError` names one it cannot read.

    One in a bucket is read whole, or what pyarrow asks for of it.
    """
    try:
        if not is_remote(path):
            yield path
        elif is_whole:
            yield pa.BufferReader(read_bytes(path))
        else:
            yield pa.PythonFile(_Ranges(path), "r")
    except RemoteError:  # a network that fails says nothing about the file
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged or missing: {error}") from error


def read_table(path: str, **options: Any) -> pa.Table:  # noqa: ANN401 - pyarrow's own options
    """Read a table."""
    with _source_of(path) as source:
        return pq.read_table(source, **options)


def read_columns(path: str, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a table, for a small one in a third of the time of `read_table`."""
    with _source_of(path) as source, pq.ParquetFile(source, pre_buffer=False) as file:
        return file.read(columns=list(columns), use_threads=False)


def read_row(path: str, row: int) -> dict[str, Any]:
    """Read one row of a table, opening only its row group."""
    with _source_of(path, is_whole=False) as source, pq.ParquetFile(source) as file:
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if start <= row < stop:
                table = file.read_row_group(group)
                return dict(table.slice(row - start, 1).to_pylist()[0])
            start = stop
    raise IndexError(f"{path} has {start} rows, row {row} was asked for")


def read_rows(path: str, rows: npt.NDArray[np.int64], column: str) -> Iterator[Any]:
    """Give single rows of a column, in order, opening only their row groups."""
    with _source_of(path, is_whole=False) as source, pq.ParquetFile(source) as file:
        asked = _by_group(file, rows)
        if not is_remote(path) or len(asked) <= _FEW_GROUPS * file.num_row_groups:
            yield from _rows_of(file, asked, column)
            return
    with _source_of(path) as source, pq.ParquetFile(source) as file:
        yield from _rows_of(file, asked, column)


def _by_group(
    file: pq.ParquetFile, rows: npt.NDArray[np.int64]
) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """Deal rows to the row groups that hold them; those beyond the file are left out."""
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    ends = np.cumsum(sizes, dtype=np.int64)
    rows = rows[rows < file.metadata.num_rows]
    group = np.searchsorted(ends, rows, side="right")
    inside = rows - (ends - sizes)[group]
    return [(int(number), inside[group == number]) for number in np.unique(group)]


def _rows_of(
    file: pq.ParquetFile, asked: Iterable[tuple[int, npt.NDArray[np.int64]]], column: str
) -> Iterator[Any]:
    for group, rows in asked:
        values = file.read_row_group(group, columns=[column])[column]
        yield from values.take(pa.array(rows)).to_pylist()


def rows_where(path: str, column: str, value: str) -> list[dict[str, Any]]:
    """Read the rows of a table whose column has a value.

    Only row groups are opened whose statistics allow it: one at most where no value of a file
    sorted by the column comes twice.
    """
    with _source_of(path, is_whole=False) as source, pq.ParquetFile(source) as file:
        return [row for group in _groups(file, column, value) for row in group]


def _groups(file: pq.ParquetFile, column: str, value: str) -> Iterator[list[dict[str, Any]]]:
    """Give the rows with a value of every row group that may hold it."""
    place = file.schema_arrow.get_field_index(column)
    for group in range(file.metadata.num_row_groups):
        if not _may_hold(file.metadata.row_group(group).column(place).statistics, value):
            continue
        values = file.read_row_group(group, columns=[column])[column].to_pylist()
        rows = [row for row, each in enumerate(values) if each == value]
        if rows:
            table = file.read_row_group(group)  # `take` imports pandas for its indices
            yield [found for row in rows for found in table.slice(row, 1).to_pylist()]


def _may_hold(statistics: pq.Statistics | None, value: str) -> bool:
    """Tell whether a column chunk can hold a string; one of very long ones has no statistics."""
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min <= value <= statistics.max)
