"""A place in decompressed bytes: lines and other pieces of bounded length are cut from it.

`offset` and `position` say where the next record starts: that is all a reader needs to go on from
there later, which is how large files are split.
"""

from collections.abc import Iterator


class Cursor:
    """Reads forward through chunks; what is longer than a limit is passed over, not held."""

    def __init__(self, chunks: Iterator[bytes], position: int = 0) -> None:
        """Stand before the first chunk; `position` counts the lines or records before it."""
        self.position = position
        self.ended = False
        self._chunks = chunks
        self._buffer = b""
        self._at = 0
        self._base = 0
        self._moved = 0

    @property
    def offset(self) -> int:
        """Bytes gone past so far."""
        return self._base + self._at

    def until(self, end: bytes, limit: int) -> bytes | int | None:
        """Return what lies before `end`, its size where that is over the limit, None at the end.

        The last piece may lack its end: `ended` is true then.
        """
        stop = self._buffer.find(end, self._at)
        if stop < 0 or stop - self._at > limit:
            return self._gather(end, limit)
        piece = self._buffer[self._at : stop]
        self._at = stop + len(end)
        return piece

    def _gather(self, end: bytes, limit: int) -> bytes | int | None:
        parts: list[bytes] = []
        size = 0
        found = -1
        while found < 0 and not self.ended:
            found = self._buffer.find(end, self._at)
            # The end may be cut in two by the end of a chunk.
            stop = found if found >= 0 else max(self._at, len(self._buffer) - len(end) + 1)
            if found < 0 and not self._fill(stop, parts, limit - size):
                stop = len(self._buffer)
            if found >= 0 or self.ended:
                part = self._buffer[self._at : stop]
                size += len(part)
                parts.append(part)
                self._at = stop + (len(end) if found >= 0 else 0)
            else:
                size += self._moved
            if size > limit:
                parts.clear()
        if found < 0 and not size:
            return None
        return size if size > limit else b"".join(parts)

    def _fill(self, stop: int, parts: list[bytes], room: int) -> bool:
        """Take the next chunk; what lies before `stop` goes to the parts if there is room."""
        chunk = next(self._chunks, None)
        if chunk is None:
            self.ended = True
            return False
        self._moved = stop - self._at
        if self._moved <= room:
            parts.append(self._buffer[self._at : stop])
        self._base += stop
        self._buffer = self._buffer[stop:] + chunk
        self._at = 0
        return True

    def peek(self, size: int) -> bytes:
        """Return the next bytes without going past them, fewer only at the end."""
        while len(self._buffer) - self._at < size and self._fill(self._at, [], 0):
            pass
        return self._buffer[self._at : self._at + size]

    def read(self, size: int) -> bytes:
        """Return the next bytes, fewer only at the end."""
        parts = []
        while size > 0 and (part := self.peek(1) and self._buffer[self._at : self._at + size]):
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Go past bytes without holding them; return how many there were."""
        left = size
        while left > 0 and self.peek(1):
            step = min(left, len(self._buffer) - self._at)
            self._at += step
            left -= step
        return size - left

    def rest(self) -> int:
        """Go past all that is left; return how many bytes there were."""
        start = self.offset
        while self.skip(2**30):
            pass
        return self.offset - start
