"""A place in decompressed bytes: lines and other pieces of bounded length are cut from it.

`offset` and `position` say where the next record starts: that is all a reader needs to go on from
there later, which is how large files are split.
"""

from collections.abc import Iterator

from corpus.archives import Growth


class Cursor:
    """Reads forward through chunks; what is longer than a limit is passed over, not held."""

    def __init__(
        self, chunks: Iterator[bytes], position: int = 0, growth: Growth | None = None
    ) -> None:
        """Stand before the first chunk; `position` counts the lines or records before it.

        `growth` counts what archives within the chunks become.
        """
        self.position = position
        self.growth = growth
        self.ended = False
        # True within a file of an archive, where no piece can start.
        self.is_inside = False
        self._chunks = chunks
        self._buffer = b""
        self._at = 0
        self._base = 0
        self._exhausted = False

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
        while True:
            found = self._buffer.find(end, self._at)
            stop = found if found >= 0 else self._searched(end)
            size += stop - self._at
            if size <= limit:
                parts.append(self._buffer[self._at : stop])
            else:
                parts.clear()
            self._at = stop
            if found >= 0:
                self._at += len(end)
                break
            if not self._fill() and self._at == len(self._buffer):
                self.ended = True
                break
        if self.ended and not size:
            return None
        return size if size > limit else b"".join(parts)

    def _searched(self, end: bytes) -> int:
        """Return up to where no end can start; it may be cut in two by the end of a chunk."""
        if self._exhausted:
            return len(self._buffer)
        return max(self._at, len(self._buffer) - len(end) + 1)

    def _fill(self) -> bool:
        """Take the next chunk; tell whether there was one."""
        chunk = None if self._exhausted else next(self._chunks, None)
        if chunk is None:
            self._exhausted = True
            return False
        self._base += self._at
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        return True

    def peek(self, size: int) -> bytes:
        """Return the next bytes without going past them, fewer only at the end."""
        while len(self._buffer) - self._at < size and self._fill():
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
