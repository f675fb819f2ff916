"""What the batches of an Arrow file claim to become, read before room is made for them.

Compressed buffers begin with their decompressed size, and pyarrow makes room for a whole batch at
once: a few kilobytes may ask for gigabytes. The sizes are read here without pyarrow, from a message
at a time: its metadata (flatbuffers) and eight bytes of each buffer. What is no sound message
claims nothing: pyarrow says what is wrong with it.

Source: the Arrow columnar format, 1.5 (Message.fbs, File.fbs, "Serialization and IPC").
"""

import struct
from collections.abc import Iterator
from typing import Protocol

_MAGIC = b"ARROW1"
_CONTINUATION = b"\xff\xff\xff\xff"
# Message.fbs, MessageHeader: the kinds that have buffers.
_DICTIONARY, _BATCH = 2, 3
_UNSOUND = (struct.error, OverflowError, ValueError, IndexError)
# File.fbs, Block: offset, length of the metadata, padding, length of the body.
_BLOCK = struct.Struct("<qi4xq")
_BUFFER = struct.Struct("<qq")


class _File(Protocol):
    """Bytes read at any place."""

    def read(self, size: int, /) -> bytes: ...

    def seek(self, offset: int, whence: int = 0, /) -> int: ...


def claimed_by_file(data: _File) -> int:
    """Return the most bytes that a batch or a dictionary of an Arrow file claims to become."""
    try:
        return max((_claim(data, start)[0] for start in _blocks(data)), default=0)
    except _UNSOUND:
        return 0


def claimed_by_next(data: _File, start: int) -> int:
    """Return what the next batch of a stream and the dictionaries before it claim to become."""
    most = 0
    try:
        while True:
            claimed, kind, after = _claim(data, start)
            most = max(most, claimed)
            if kind != _DICTIONARY or after <= start:
                return most
            start = after
    except _UNSOUND:
        return most


def _blocks(data: _File) -> Iterator[int]:
    """Give where the messages of dictionaries and batches start, as the footer says."""
    size = data.seek(0, 2)
    end = size - len(_MAGIC) - 4
    (length,) = struct.unpack("<i", _read(data, end, 4))
    footer = _read(data, end - length, length)
    table = _follow(footer, 0)
    for number in (2, 3):
        blocks = _field(footer, table, number)
        if blocks:
            first = _follow(footer, blocks)
            for each in range(_unsigned(footer, first)):
                yield _BLOCK.unpack_from(footer, first + 4 + each * _BLOCK.size)[0]


def _claim(data: _File, start: int) -> tuple[int, int, int]:
    """Return what a message claims to become, its kind, and where the next one starts."""
    head = _read(data, start, 8)
    before = 8 if head.startswith(_CONTINUATION) else 4
    (length,) = struct.unpack_from("<i", head, before - 4)
    metadata = _read(data, start + before, length)
    body = start + before + length
    message = _follow(metadata, 0)
    kind = metadata[_field(metadata, message, 1)]
    (body_bytes,) = struct.unpack_from("<q", metadata, _field(metadata, message, 3))
    if kind not in (_DICTIONARY, _BATCH):
        return 0, kind, body + body_bytes
    batch = _follow(metadata, _field(metadata, message, 2))
    if kind == _DICTIONARY:
        batch = _follow(metadata, _field(metadata, batch, 1))
    claimed = 0
    if _field(metadata, batch, 3):  # how it is compressed
        claimed = sum(_sizes(data, metadata, _follow(metadata, _field(metadata, batch, 2)), body))
    return claimed, kind, body + body_bytes


def _sizes(data: _File, metadata: bytes, buffers: int, body: int) -> Iterator[int]:
    """Give what each buffer becomes; -1 says that one is not compressed."""
    for number in range(_unsigned(metadata, buffers)):
        offset, length = _BUFFER.unpack_from(metadata, buffers + 4 + number * _BUFFER.size)
        if length >= 8:
            (size,) = struct.unpack("<q", _read(data, body + offset, 8))
            yield max(size, 0)


def _read(data: _File, start: int, size: int) -> bytes:
    if min(start, size) < 0:
        raise ValueError("a place before the file")
    data.seek(start)
    return data.read(size)


def _unsigned(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _follow(data: bytes, at: int) -> int:
    """Return where an offset leads."""
    return at + _unsigned(data, at)


def _field(data: bytes, table: int, number: int) -> int:
    """Return where a field of a table stands; 0 where it is absent, which none can be."""
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", data, table - back + slot)[0] if slot + 2 <= size else 0
    return table + int(offset) if offset else 0
