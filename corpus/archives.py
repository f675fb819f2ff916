"""A raw file opened for decompressed reading, which also checks that it is the planned one.

Gzip, zstd, bzip2, xz and lz4, by their first bytes rather than by the name, members and frames one
after another included. Reading streams in bounded steps. Where an archive breaks, what lies before
the break is given, read again in small steps: the last large one dies with its decompressor. One
that expands beyond all proportion ends as a bomb. A failing disk or network is no property of the
data and raises.
"""

import bz2
import hashlib
import io
import lzma
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import lz4.frame  # type: ignore[import-untyped]
import pyarrow as pa
from isal import igzip, isal_zlib

from corpus.files import open_reader

# Raised by hand when the same bytes decompress otherwise.
VERSION = 1

CHUNK_BYTES = 2**18
_CAREFUL_BYTES = 2**8  # what a broken archive may take with it beside a block of its own
# Deflate cannot expand more than 1,032 times, real text hardly 20: far from either.
BOMB_RATIO, BOMB_BYTES = 500, 2**28

_BROKEN = (
    EOFError, OSError, lzma.LZMAError, isal_zlib.error, RuntimeError, ValueError,
)  # fmt: skip


class CorruptArchiveError(Exception):
    """The compressed data cannot be decompressed any further."""


class BombError(Exception):
    """The compressed data expands beyond all proportion; the argument is the ratio so far."""


def _zstd(raw: BinaryIO) -> Any:  # noqa: ANN401 - any readable
    # pyarrow's, as that of zstandard takes the end of the file for the end of a frame.
    return pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")


def _igzip(raw: BinaryIO) -> Any:  # noqa: ANN401 - any readable
    return igzip.IGzipFile(fileobj=raw, mode="rb")


_CODECS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", _igzip),
    (b"\x28\xb5\x2f\xfd", _zstd),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
    (b"\x04\x22\x4d\x18", lz4.frame.LZ4FrameFile),
)
# Names that promise an archive: what is none under them is corrupt, not text.
ARCHIVE_SUFFIXES = (".gz", ".zst", ".bz2", ".xz", ".lz4")


class _Raw(io.RawIOBase):
    """The bytes as they are stored; a failure of the storage is noted, apart from the archive's."""

    def __init__(self, stream: BinaryIO, digest: Any = None) -> None:  # noqa: ANN401 - hashlib's
        self.stream = stream
        self.digest = digest
        self.failure: OSError | None = None
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data = self.stream.read(size)
        except OSError as failure:
            self.failure = failure
            raise
        self.count += len(data)
        if self.digest is not None:
            self.digest.update(data)
        return data

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class InputFile:
    """A raw file opened for decompressed reading."""

    def __init__(self, path: str) -> None:
        """Open the file."""
        self.path = path
        self._stream = open_reader(path)
        self._digest = hashlib.sha256()
        self._raw = _Raw(self._stream, self._digest)

    def chunks(self) -> Iterator[bytes]:
        """Give decompressed chunks; `CorruptArchiveError` where the archive breaks."""
        given = 0
        try:
            for chunk in self._decompressed(self._raw, CHUNK_BYTES):
                given += len(chunk)
                yield chunk
        except CorruptArchiveError as error:
            yield from self._salvage(given)
            raise error from None

    def _decompressed(self, raw: _Raw, step: int) -> Iterator[bytes]:
        opened = _open(raw, self.path)
        given = 0
        while True:
            try:
                chunk = opened.read(step)
            except _BROKEN as error:
                if raw.failure is not None:
                    raise raw.failure from None
                raise CorruptArchiveError(str(error) or type(error).__name__) from error
            if not chunk:
                return
            given += len(chunk)
            if given > BOMB_BYTES and given > BOMB_RATIO * raw.count:
                raise BombError(given / raw.count)
            yield chunk

    def _salvage(self, given: int) -> Iterator[bytes]:
        """Give what lies between the last whole chunk and the break."""
        with open_reader(self.path) as stream:
            seen = 0
            try:
                for chunk in self._decompressed(_Raw(stream), _CAREFUL_BYTES):
                    seen += len(chunk)
                    if seen > given:
                        yield chunk[-min(len(chunk), seen - given) :]
            except CorruptArchiveError:
                return

    def first_bytes(self, size: int) -> bytes:
        """Return the beginning of the decompressed content, read apart; empty where it breaks."""
        found = b""
        with open_reader(self.path) as stream:
            try:
                for chunk in self._decompressed(_Raw(stream), size):
                    found += chunk
                    if len(found) >= size:
                        break
            except (CorruptArchiveError, BombError):
                pass
        return found[:size]

    def seekable(self) -> BinaryIO:
        """Open the stored bytes for reading at any place; the caller closes it."""
        return open_reader(self.path)

    def checksum(self) -> str:
        """Read what is left and return the SHA-256 of the raw file."""
        while self._raw.read(CHUNK_BYTES):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the raw file."""
        self._stream.close()


def _open(raw: _Raw, path: str) -> Any:  # noqa: ANN401 - any readable
    """Return what reads the decompressed content, by the first bytes."""
    head = raw.read(8)
    joined = _Joined(head, raw)
    for magic, codec in _CODECS:
        if head.startswith(magic):
            return codec(io.BufferedReader(joined, CHUNK_BYTES))
    if head and path.endswith(ARCHIVE_SUFFIXES):
        raise CorruptArchiveError(f"begins with {head[:4]!r}, which is no archive")
    return joined


class _Joined(io.RawIOBase):
    """The first bytes, given back, and what comes after them."""

    def __init__(self, head: bytes, raw: _Raw) -> None:
        self.head = head
        self.raw = raw

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self.head:
            return self.raw.read(size)
        given = self.head if size < 0 else self.head[:size]
        self.head = self.head[len(given) :]
        return given

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
