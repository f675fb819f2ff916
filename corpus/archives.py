"""Raw files as decompressed bytes: gzip, zstd, bzip2, xz and lz4, plain or one after another.

Decompression goes in large steps. Where the data breaks, the archive's last member is read again
in small ones, so that what lies before the break is given (a zstd, bzip2 or lz4 loses the block
that the break lies in) and speed costs nothing. Broken data raises `CorruptArchiveError`; a failing
disk or network is no property of the data and raises its own `OSError`.

An archive that grows beyond all that text can (`MAX_RATIO`, once it has given `BOMB_BYTES`) ends
with `DecompressionBombError`. Members that follow each other are noted (`boundaries`):
decompression can start at any of them, which is what lets a large file be split.
"""

import hashlib
import lzma
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol, cast

import lz4.frame
import zstandard
from isal import igzip_lib

from corpus.bzip2 import BrokenBlockError, read_blocks
from corpus.files import open_reader

# Measured on a 2-core machine, November 2026: larger steps gain nothing for gzip or zstd.
STEP_BYTES = 2**18
RAW_BYTES = 2**16
# What a break takes with it at most, where the codec has no blocks.
SALVAGE_BYTES = 2**8
# Text packs 3 to 20 times; the most repetitive logs a few hundred. Deflate ends at 1,032 and zeros
# in zstd reach 30,000 (zlib FAQ; RFC 8878, 3.1.1.2): a guess between text and bombs.
MAX_RATIO = 500.0
BOMB_BYTES = 2**28

SUFFIXES = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".lz4": "lz4",
}
# First bytes: RFC 1952; RFC 8878; the bzip2, xz and LZ4 frame format descriptions. That of bzip2 is
# letters, which a text may begin with too: the first block's, or the end's, are asked for as well.
_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    **{b"BZh%d1AY&SY" % level: "bzip2" for level in range(1, 10)},
    **{b"BZh%d\x17rE8P\x90" % level: "bzip2" for level in range(1, 10)},
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_IsalError: Any = igzip_lib.IsalError
_ERRORS = (OSError, EOFError, ValueError, RuntimeError, lzma.LZMAError, _IsalError)
# Blocks of bzip2, of 900,000 bytes or so: enough for a machine's cores. Guess.
_BLOCKS_AHEAD = 16
# RFC 8878, 3.1.1.2.4 and 3.1.2: no block is longer, skippable frames have sixteen magic numbers.
_ZSTD_BLOCK_BYTES = 2**17
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
# zstandard's own default is the format's: 128 MiB of window (RFC 8878 asks for 8 at least).
_ZSTD_WINDOW_BYTES = 2**27


class CorruptArchiveError(Exception):
    """The compressed data cannot be decompressed any further."""


class DecompressionBombError(Exception):
    """The compressed data grows beyond what text can; holds the ratio, and whose it is."""

    def __init__(self, ratio: float, owner: object = None) -> None:
        """Note how many times its size the archive has given so far."""
        super().__init__(f"{ratio:.0f} times its size")
        self.ratio = ratio
        self.owner = owner


def check_ratio(given: int, taken: int, owner: object = None) -> None:
    """Raise `DecompressionBombError` where more came of so many bytes than text can be."""
    if given > BOMB_BYTES and given > MAX_RATIO * taken:
        raise DecompressionBombError(given / taken, owner)


class Growth:
    """What the compressed members of an archive become, against the raw bytes of all of it."""

    def __init__(self, taken: Callable[[], int]) -> None:
        """Count from nothing; `taken` tells how many raw bytes were read so far."""
        self._taken = taken
        self._given = 0

    def count(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Give chunks as they come; raises `DecompressionBombError` where all are too many."""
        for chunk in chunks:
            self._given += len(chunk)
            check_ratio(self._given, max(1, self._taken()))
            yield chunk


class Bytes(Protocol):
    """Bytes that are read forward; fewer than asked for come only at the end."""

    def read(self, size: int, /) -> bytes:
        """Read so many bytes."""
        ...


class _Decoder(Protocol):
    """What `lzma`, `lz4.frame` and `isal` agree on."""

    eof: bool
    needs_input: bool
    unused_data: bytes | None

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def codec_of(name: str, head: bytes = b"") -> str | None:
    """Tell the compression by a name, then by first bytes; None is none."""
    for suffix, codec in SUFFIXES.items():
        if name.lower().endswith(suffix):
            return codec
    return next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)


class InputFile:
    """A raw file, or a range of one, opened for decompressed reading and for its checksum."""

    def __init__(
        self,
        path: str,
        start: int = 0,
        stop: int | None = None,
        codec: str | None = None,
        threads: int = 0,
    ) -> None:
        """Open the file at a byte; compression goes by the name, then by the first bytes.

        A `codec` that is known is not looked for; an empty one is none. Blocks of bzip2 are
        decompressed ahead by so many threads, how far ahead does not depend on their number.
        """
        self.path = path
        self.closed = False
        self.failure: OSError | None = None
        # Places where decompression can start: (raw, decompressed) bytes from `start`.
        self.boundaries: list[tuple[int, int]] = []
        self._raw = self._open()
        self._threads = threads
        self._left = None if stop is None else stop - start
        self._digest = hashlib.sha256()
        self._taken = self._step = 0
        self._given = 0
        self._start = start
        self._head = b""
        if start:
            self._raw.seek(start)
        self._head = self.read(max(map(len, _MAGIC)))
        self.codec = codec_of(path, self._head) if codec is None else codec or None
        self._taken = 0

    def _open(self) -> BinaryIO:
        return open_reader(self.path)

    @property
    def reached(self) -> int:
        """Return how many raw bytes were decompressed so far, or more: it reads ahead by a step."""
        return max(0, self._taken - RAW_BYTES)

    @property
    def growth(self) -> Growth:
        """Return what counts the growth of archives within this file, from now on."""
        return Growth(lambda: self._taken)

    def read(self, size: int = -1) -> bytes:
        """Read raw bytes, noting a failure of the storage apart from one of the archive."""
        if self._head:
            data, self._head = self._head, b""
            self._taken += len(data)
            return data
        if self._left is not None:
            size = self._left if size < 0 else min(size, self._left)
        try:
            data = self._raw.read(size)
        except OSError as failure:
            self.failure = failure
            raise
        if self._left is not None:
            self._left -= len(data)
        self._digest.update(data)
        self._step = len(data)
        self._taken += len(data)
        return data

    def chunks(self) -> Iterator[bytes]:
        """Give decompressed chunks; raises where the archive breaks or is a bomb."""
        self.boundaries.append((0, 0))
        if self.codec is None:
            while chunk := self.read(STEP_BYTES):
                self._given += len(chunk)
                yield chunk
            return
        ways = {"zstd": self._zstd_frames, "bzip2": self._bzip2_blocks}
        for chunk in ways.get(self.codec, self._members)():
            self._given += len(chunk)
            check_ratio(self._given, self._taken, self)
            if chunk:
                yield chunk

    def _members(self) -> Iterator[bytes]:
        """Decompress members one after another; gzip and xz allow zeros after the last."""
        make = _maker(self.codec or "")
        rest = b""
        first = True
        while True:
            rest = rest or self.read(RAW_BYTES)
            if not first and self.codec in ("gzip", "xz"):
                rest = self._past_zeros(rest)
            if not rest:
                return
            member = (self._taken - len(rest), self._given)
            if not first:
                self.boundaries.append(member)
            first = False
            try:
                rest = yield from self._member(make(), rest)
            except _ERRORS as error:
                if self.failure is not None:
                    raise self.failure from None
                yield from self._salvage(make(), member, self._taken - self._step)
                raise CorruptArchiveError(str(error)) from error

    def _past_zeros(self, rest: bytes) -> bytes:
        while rest and not (rest := rest.lstrip(b"\0")):
            rest = self.read(RAW_BYTES)
        return rest

    def _member(self, decoder: _Decoder, raw: bytes) -> Generator[bytes, None, bytes]:
        """Give the chunks of a member; returns what follows it of the raw bytes read."""
        while True:
            yield decoder.decompress(raw, STEP_BYTES)
            if decoder.eof:
                return decoder.unused_data or b""
            raw = self.read(RAW_BYTES) if decoder.needs_input else b""
            if decoder.needs_input and not raw:
                raise EOFError("the archive ends before its end marker")

    def _salvage(self, decoder: _Decoder, member: tuple[int, int], last: int) -> Iterator[bytes]:
        """Read a broken member again, from the raw byte `last` on in the smallest steps.

        That gives what a large step lost: all that stands before the break, wherever steps began.
        """
        skip = self._given - member[1]
        at = member[0]
        with open_reader(self.path) as raw:
            raw.seek(self._start + at)
            while True:
                size = min(RAW_BYTES, last - at) if at < last else 1
                data = raw.read(size) if decoder.needs_input else b""
                at += len(data)
                try:
                    chunk = decoder.decompress(data, SALVAGE_BYTES)
                except _ERRORS:
                    return
                yield chunk[skip:]
                skip -= min(skip, len(chunk))
                if decoder.eof or (decoder.needs_input and not data and not chunk):
                    return

    def _bzip2_blocks(self) -> Iterator[bytes]:
        """Decompress block by block."""
        pool = ThreadPoolExecutor(self._threads, "bzip2") if self._threads else None
        try:
            for start, data in read_blocks(self.read, pool, _BLOCKS_AHEAD if pool else 0):
                if start:
                    self.boundaries.append((start, self._given))
                yield data
        except BrokenBlockError as error:
            raise CorruptArchiveError(str(error)) from error
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)

    def _zstd_frames(self) -> Iterator[bytes]:
        """Decompress frame by frame and block by block: a broken block loses only itself."""
        source = _Buffered(self.read)
        while head := source.peek(18):
            if source.taken:
                self.boundaries.append((source.taken, self._given))
            if head[1:4] == _ZSTD_SKIPPABLE and 0x50 <= head[0] <= 0x5F and len(head) >= 8:
                source.skip(8 + int.from_bytes(head[4:8], "little"))
                continue
            try:
                yield from _zstd_frame(source, head)
            except zstandard.ZstdError as error:
                raise CorruptArchiveError(str(error)) from error

    def read_so_far(self) -> tuple[int, str]:
        """Return how many raw bytes were read, and their SHA-256."""
        return self._taken, self._digest.copy().hexdigest()

    def checksum(self) -> str:
        """Read what is left and return the SHA-256 of the raw file, or of the range."""
        while self.read(STEP_BYTES):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the raw file."""
        self.closed = True
        self._raw.close()


class MemberFile(InputFile):
    """A member of an archive; read once only, so a break costs the last step of decompression."""

    def __init__(self, name: str, contents: Bytes) -> None:
        """Stand at the beginning of what the archive gives for it."""
        self._contents = contents
        super().__init__(name)

    def _open(self) -> BinaryIO:
        return cast(BinaryIO, self._contents)

    def _salvage(self, decoder: _Decoder, member: tuple[int, int], last: int) -> Iterator[bytes]:
        return iter(())


def _maker(codec: str) -> Callable[[], Any]:
    if codec == "gzip":
        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    if codec == "xz":
        return lambda: lzma.LZMADecompressor(memlimit=_ZSTD_WINDOW_BYTES)
    decoder: Callable[[], Any] = lz4.frame.LZ4FrameDecompressor
    return decoder


class _Buffered:
    """Raw bytes in the sizes that are asked for."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b""
        self._at = 0
        self.taken = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        while len(self._buffer) - self._at < size:
            more = self._read(RAW_BYTES)
            if not more:
                break
            self._buffer = self._buffer[self._at :] + more
            self._at = 0
        return self._buffer[self._at : self._at + size]

    def take(self, size: int) -> bytes:
        """Return the next bytes and go past them; `CorruptArchiveError` where they are missing."""
        data = self.peek(size)
        if len(data) < size:
            raise CorruptArchiveError("the archive ends within a frame")
        self._at += size
        self.taken += size
        return data

    def skip(self, size: int) -> None:
        """Go past bytes without holding them."""
        while size:
            size -= len(self.take(min(size, RAW_BYTES)))


def _zstd_frame(source: _Buffered, head: bytes) -> Iterator[bytes]:
    """Give the blocks of a frame: three bytes say how long each is and whether it is the last."""
    parameters = zstandard.get_frame_parameters(head)
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
    yield decoder.decompress(source.take(zstandard.frame_header_size(head)))
    last = 0
    while not last:
        header = source.peek(3)
        word = int.from_bytes(header, "little")
        last, kind, size = word & 1, word >> 1 & 3, word >> 3
        if size > _ZSTD_BLOCK_BYTES:
            raise CorruptArchiveError(f"a block of {size} bytes")
        # A block of one repeated byte holds that byte; its size is what it becomes.
        yield decoder.decompress(source.take(3 + (1 if kind == 1 else size)))
    if parameters.has_checksum:
        yield decoder.decompress(source.take(4))
