"""Stretches: some rows of an Arrow file of ours, without the rest of it.

A local file is mapped, so what is not looked at is not read. One in a bucket cannot be: its head
and end are read, which say where each column lies, into an array as long as the file, of which only
what is written takes memory. Rows are there once they were asked for; to look at others is to see
zeros. It costs a request for the size, two for both ends, and one a column and stretch.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.files import RemoteError, is_remote, read_bytes, read_range, size_bytes

# What is read of both ends of a remote file: its schema and where its columns lie take some 2 KB.
_END_BYTES = 16 * 2**10
# Of columns of bytes, what says where a value begins.
_OFFSETS: dict[pa.DataType, np.dtype[Any]] = {
    pa.string(): np.dtype(np.int32),
    pa.large_binary(): np.dtype(np.int64),
}


def open_arrow(path: str) -> pa.Table:
    """Open one of our Arrow files, mapped where it is local; `ValueError` names a damaged one."""
    with _naming_damage(path):
        source = pa.BufferReader(read_bytes(path)) if is_remote(path) else pa.memory_map(path)
        # With threads of Arrow's own it takes 2.5 times the CPU: there is nothing to decode.
        options = pa.ipc.IpcReadOptions(use_threads=False)
        return pa.ipc.open_file(source, options=options).read_all()


@contextmanager
def _naming_damage(path: str) -> Iterator[None]:
    try:
        yield
    except RemoteError:  # a network that fails says nothing about the file
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete its snapshot's directory and refresh again"
        ) from error


class Stretched:
    """A table in one of our Arrow files; of a remote one, only what was asked for is there."""

    def __init__(self, path: str) -> None:
        """Open a file; `ValueError` names a damaged one."""
        self._path = path
        self._is_whole = not is_remote(path)
        with _naming_damage(path):
            self.table = open_arrow(path) if self._is_whole else self._open_remote()

    def need(self, names: Iterable[str], start: int, stop: int) -> None:
        """Read some rows of some columns, where they are not there."""
        for name in names:
            if not self._is_whole and stop > start:
                self._fill(self.table[name].chunk(0).slice(start, stop - start))

    def need_offsets(self, name: str, start: int, stop: int) -> None:
        """Read where some rows of a list column begin and end, and nothing of what is in them."""
        if not self._is_whole and stop > start:
            self._fetch(self.table[name].chunk(0).buffers()[1], 8 * start, 8 * (stop + 1))

    def _open_remote(self) -> pa.Table:
        size = size_bytes(self._path)
        self._data = np.zeros(size, np.uint8)
        if size <= 2 * _END_BYTES:
            self._read_all()
        else:
            self._read(0, _END_BYTES)
            self._read(size - _END_BYTES, size)
        reader = pa.ipc.open_file(pa.py_buffer(self._data))
        if reader.num_record_batches > 1 and not self._is_whole:
            self._read_all()
        return reader.read_all()

    def _read_all(self) -> None:
        self._read(0, len(self._data))
        self._is_whole = True

    def _fill(self, array: pa.Array) -> None:
        validity, first, *others = array.buffers()
        start, stop = array.offset, array.offset + len(array)
        kind = array.type
        if validity is not None:
            self._fetch(validity, start // 8, -(-stop // 8))
        if pa.types.is_large_list(kind):
            low, high = self._bounds(first, np.dtype(np.int64), (start, stop))
            if high > low:
                self._fill(array.values.slice(low, high - low))
        elif kind in _OFFSETS:
            self._fetch(others[0], *self._bounds(first, _OFFSETS[kind], (start, stop)))
        else:
            self._fetch(first, start * kind.bit_width // 8, -(-stop * kind.bit_width // 8))

    def _bounds(
        self, offsets: pa.Buffer, dtype: np.dtype[Any], rows: tuple[int, int]
    ) -> tuple[int, int]:
        """Read the offsets of some rows; return where the first begins and the last ends."""
        start, stop = rows
        self._fetch(offsets, dtype.itemsize * start, dtype.itemsize * (stop + 1))
        found = np.frombuffer(offsets, dtype)
        return int(found[start]), int(found[stop])

    def _fetch(self, buffer: pa.Buffer, low: int, high: int) -> None:
        """Read the bytes [low, high) of a buffer that lies in the file."""
        begin = buffer.address - self._data.ctypes.data
        if high > low:
            self._read(begin + low, begin + high)

    def _read(self, start: int, stop: int) -> None:
        self._data[start:stop] = np.frombuffer(read_range(self._path, start, stop), np.uint8)
