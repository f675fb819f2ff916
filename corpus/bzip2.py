"""bzip2 by its blocks: each is found by its mark, decompressed and checked by itself.

A stream is a header of four bytes, blocks and an end, which follow each other by the bit. A block
begins with a mark of 48 bits and the CRC of what it becomes, 900,000 bytes or so; the end with
another mark and a CRC made of theirs (as Seward's bzip2 1.0 writes it). With a header before and an
end behind it a block is a stream of its own to libbz2. That gives three things: a block is given
once its CRC is right, where libbz2 gives a broken block's garbage before it comes to the CRC;
reading can begin at any block; and blocks can be decompressed several at a time.

A mark can stand within a block by chance, once in 35 terabytes: what does not decompress is tried
once more together with what follows.
"""

import bz2
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

_BLOCK, _END = 0x314159265359, 0x177245385090
_MARK, _CRC, _HEADER = 48, 32, 32  # bits
_HEADERS = {int.from_bytes(b"BZh%d" % level) for level in range(1, 10)}
# That of the largest blocks: a block becomes the same, whatever its stream says.
_LARGEST = int.from_bytes(b"BZh9")
# Bytes; a block has fewer: 900,000 symbols of 20 bits at most, and tables.
_LONGEST = 3 * 2**20
_STEP = 2**16
_SALVAGE = 2**12
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
# A mark may begin at any bit of a byte; five bytes are its own, whatever stands around it.
_SOUGHT = [
    (mark, bit, (mark << (8 - bit)).to_bytes(7)[1:6]) for mark in (_BLOCK, _END) for bit in range(8)
]


class BrokenBlockError(ValueError):
    """The data is no bzip2 from here on; all that stands before was given."""


class _Part(NamedTuple):
    """The bits from a mark to the next one or to the end; the first those before any mark."""

    start: int
    bits: int
    value: int

    def take(self, skip: int, bits: int) -> int:
        """Return some of its bits; raises `BrokenBlockError` where it has fewer."""
        if self.bits < skip + bits:
            raise BrokenBlockError("the archive ends before its end marker")
        return self.value >> (self.bits - skip - bits) & ((1 << bits) - 1)

    def join(self, after: "_Part") -> "_Part":
        """Return this and what follows it as one."""
        value = self.value << after.bits | after.value
        return _Part(self.start, self.bits + after.bits, value)


# A part, and what decompresses it as a block.
_Begun = tuple[_Part, Callable[[], bytes]]


def read_blocks(
    read: Callable[[int], bytes], pool: Executor | None = None, ahead: int = 0
) -> Iterator[tuple[int, bytes]]:
    """Give what each block becomes, and the raw byte from which on it can be read again.

    That is the first of its stream, or the one that its first bit lies in; `read` may begin at
    either. With a pool so many blocks are decompressed ahead.
    """
    parts = _begin(_parts(read), pool, ahead)
    first, _ = next(parts)
    crc: int | None = None  # of a stream's blocks so far, where it was read from its beginning
    start: int | None = None  # of a stream that had no block yet
    is_open = first.bits >= 8
    if is_open:
        crc, start = 0, _find_header(first, 0)
    for part, decompress in parts:
        is_first = part.start < 8
        if not is_open and not is_first:
            raise BrokenBlockError("no header of a stream")
        if part.take(0, _MARK) == _END:
            if crc not in (None, part.take(_MARK, _CRC)):
                raise BrokenBlockError("the checksum of a stream is another")
            end = _MARK + _CRC + -(part.start + _MARK + _CRC) % 8
            is_open = part.bits != end
            if is_open:
                crc, start = 0, _find_header(part, end)
            continue
        try:
            data, is_broken = decompress(), False
        except BrokenBlockError:
            data, is_broken = _mend(part, next(parts, None))
        if data:
            yield part.start // 8 if start is None else start, data
        if is_broken:
            raise BrokenBlockError("a block is broken")
        if crc is not None:
            crc = (crc << 1 | crc >> (_CRC - 1)) & (2**_CRC - 1) ^ part.take(_MARK, _CRC)
        is_open, start = True, None
    if is_open:
        raise BrokenBlockError("the archive ends before its end marker")


def _begin(parts: Iterator[_Part], pool: Executor | None, ahead: int) -> Iterator[_Begun]:
    """Give parts in order, so many of them being decompressed before they are asked for."""
    begun: deque[_Begun] = deque()
    for part in parts:
        work = pool.submit(_decompress, part).result if pool else partial(_decompress, part)
        begun.append((part, work))
        if len(begun) > ahead:
            yield begun.popleft()
    yield from begun


def _parts(read: Callable[[int], bytes]) -> Iterator[_Part]:
    """Cut raw bytes at marks; what goes on for longer than any block is the last part."""
    buffer, base, begin, last = b"", 0, 0, -1
    while len(buffer) <= _LONGEST and (more := read(_STEP)):
        looked = max(0, len(buffer) - 6)
        buffer += more
        for found in _marks(buffer, looked):
            mark = base * 8 + found
            if mark > last:  # those at the seam are found twice
                yield _cut(buffer, base, begin, mark)
                begin = last = mark
        drop = begin // 8 - base
        buffer, base = buffer[drop:], base + drop
    yield _cut(buffer, base, begin, (base + len(buffer)) * 8)


def _marks(buffer: bytes, start: int) -> list[int]:
    """List the bits at which marks begin, in the byte `start` or after."""
    found = []
    for mark, bit, middle in _SOUGHT:
        at = buffer.find(middle, start + 1)
        while at > 0:
            around = int.from_bytes(buffer[at - 1 : at + 6].ljust(7, b"\0"))
            place = (at - 1) * 8 + bit
            if around >> (8 - bit) & (2**_MARK - 1) == mark and place + _MARK <= len(buffer) * 8:
                found.append(place)
            at = buffer.find(middle, at + 1)
    return sorted(found)


def _cut(buffer: bytes, base: int, begin: int, end: int) -> _Part:
    first, last = begin // 8 - base, (end + 7) // 8 - base
    value = int.from_bytes(buffer[first:last]) >> (-end % 8) & ((1 << (end - begin)) - 1)
    return _Part(begin, end - begin, value)


def _find_header(part: _Part, skip: int) -> int:
    """Return the raw byte at which a header stands, with which a part ends."""
    if part.bits != skip + _HEADER or part.take(skip, _HEADER) not in _HEADERS:
        raise BrokenBlockError("no header of a stream")
    return (part.start + skip) // 8


def _pack(part: _Part) -> tuple[int, int]:
    """Put a header before a part; return the bits and their number."""
    return _LARGEST << part.bits | part.value, _HEADER + part.bits


def _bytes_of(value: int, bits: int) -> bytes:
    return (value << -bits % 8).to_bytes((bits + 7) // 8)


def _decompress(part: _Part) -> bytes:
    """Return what a block becomes; raises `BrokenBlockError` where it, or its end, is broken."""
    crc = part.take(_MARK, _CRC)
    value, bits = _pack(part)
    decoder = bz2.BZ2Decompressor()
    try:
        packed = _bytes_of((value << _MARK | _END) << _CRC | crc, bits + _MARK + _CRC)
        data = decoder.decompress(packed)
    except OSError as error:
        raise BrokenBlockError(str(error)) from error
    if not decoder.eof:
        raise BrokenBlockError("the archive ends before its end marker")
    return data


def _mend(part: _Part, after: _Begun | None) -> tuple[bytes, bool]:
    """Give a block that a mark by chance cuts, or what is whole of one; tell whether it breaks."""
    if after is not None:
        try:
            return _decompress(part.join(after[0])), False
        except BrokenBlockError:
            pass
    return _salvage(part), True


def _salvage(part: _Part) -> bytes:
    """Return a block where it is whole, and the break is in what follows; else nothing."""
    packed = _bytes_of(*_pack(part))
    at, given = 0, b""
    for step in (_SALVAGE, 1):  # a step into what is broken gives nothing of itself
        decoder = bz2.BZ2Decompressor()
        given = decoder.decompress(packed[:at])
        try:
            while at < len(packed):
                given += decoder.decompress(packed[at : at + step])
                at += step
        except (OSError, EOFError):
            pass
    crc = zlib.crc32(given.translate(_REVERSED))
    is_whole = part.bits >= _MARK + _CRC and int(f"{crc:032b}"[::-1], 2) == part.take(_MARK, _CRC)
    return given if is_whole else b""
