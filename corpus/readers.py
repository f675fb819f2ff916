"""Raw files become records; what cannot be read becomes damage with its place.

JSON lines (plain, gzip, zstd) and plain text, one document a file. Reading streams: memory is one
chunk and one record, and a record beyond the size limit is passed over without being held. A broken
archive gives the records before the break (but for what the decompressor takes with it: 4 KiB of a
gzip, a block of a zstd) and one `corrupt_archive`; a failing disk or network is no property of the
data and raises.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import orjson
import pyarrow as pa

from corpus.files import open_reader

# Raised by hand when the same bytes give other records.
VERSION = 1

_CHUNK_BYTES = 2**16
# What a broken archive takes with it is at most one of these, so they are small.
_ARCHIVE_CHUNK_BYTES = 2**12
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_FORMATS: dict[str, Literal["jsonl", "text"]] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
}
_KNOWN_FIELDS = ("id", "text", "url", "language")


class Record(NamedTuple):
    """One readable record; `position` counts records from 1, `key` is its own id or URL.

    Where `markup` says that the text is still to be got out of a page, `text` is wikitext, or the
    page's bytes lie in `page` with the `charset` that its headers name.
    """

    position: int
    key: str | None
    text: str
    url: str | None
    language: str | None
    meta: str | None
    markup: Literal["none", "html", "wikitext"] = "none"
    page: bytes = b""
    charset: str | None = None


class Damage(NamedTuple):
    """One unreadable record with its place and, for limits, what was compared."""

    position: int
    rule: str
    detail: str
    value: float | None = None
    threshold: float | None = None


def detect_format(name: str) -> str:
    """Tell jsonl from text by a file's name; `ValueError` where it tells neither."""
    stem = name.removesuffix(".gz").removesuffix(".zst")
    for suffix, found in _FORMATS.items():
        if stem.endswith(suffix):
            return found
    raise ValueError(
        f"cannot tell the format of {name} by its name "
        f"({', '.join(_FORMATS)}, each also .gz or .zst): set the source's format"
    )


class InputFile:
    """A raw file opened for decompressed reading, which also checks that it is the planned one."""

    def __init__(self, path: str) -> None:
        """Open the file; whether it is compressed goes by its name."""
        self.path = path
        self.closed = False
        self._raw = open_reader(path)
        self._digest = hashlib.sha256()
        self._failure: OSError | None = None
        self._stream: Any = self
        self._chunk_bytes = _CHUNK_BYTES
        for suffix, codec in _COMPRESSIONS.items():
            if path.endswith(suffix):
                self._stream = pa.CompressedInputStream(pa.PythonFile(self, mode="r"), codec)
                self._chunk_bytes = _ARCHIVE_CHUNK_BYTES

    def read(self, size: int = -1) -> bytes:
        """Read raw bytes, noting a failure of the storage apart from one of the archive."""
        try:
            data = self._raw.read(size)
        except OSError as failure:
            self._failure = failure
            raise
        self._digest.update(data)
        return data

    def chunks(self) -> Iterator[bytes]:
        """Give decompressed chunks; `CorruptArchiveError` where the archive breaks."""
        while True:
            try:
                chunk = self._stream.read(self._chunk_bytes)
            except (OSError, EOFError) as error:
                if self._failure is not None:
                    raise self._failure from None
                raise CorruptArchiveError(str(error)) from error
            if not chunk:
                return
            yield chunk

    def checksum(self) -> str:
        """Read what is left and return the SHA-256 of the raw file."""
        while self.read(_CHUNK_BYTES):
            pass
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close the raw file."""
        self.closed = True
        self._raw.close()


class CorruptArchiveError(Exception):
    """The compressed data cannot be decompressed any further."""


def read_records(file: InputFile, form: str, max_record_bytes: int) -> Iterator[Record | Damage]:
    """Give every record of a file in order, and damage in the place of what cannot be read."""
    if form == "text":
        yield _read_text(file, max_record_bytes)
        return
    lines = _Lines(max_record_bytes)
    try:
        for chunk in file.chunks():
            for line in lines.feed(chunk):
                yield from _parse(line, lines.position)
        for line in lines.end():
            yield from _parse(line, lines.position)
    except CorruptArchiveError as error:
        yield Damage(lines.position + 1, "corrupt_archive", str(error))


class _Lines:
    """Cut chunks into lines of bounded length; an overlong one comes out as damage."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.position = 0
        self._parts: list[bytes] = []
        self._held = 0
        self._passed_over = 0

    def feed(self, chunk: bytes) -> Iterator[bytes | Damage]:
        """Give the lines that end in this chunk."""
        start = 0
        while (stop := chunk.find(b"\n", start)) >= 0:
            self._hold(chunk[start:stop])
            yield self._take()
            start = stop + 1
        self._hold(chunk[start:])

    def end(self) -> Iterator[bytes | Damage]:
        """Give the last line where the file does not end in a newline."""
        if self._held or self._passed_over:
            yield self._take()

    def _hold(self, part: bytes) -> None:
        if self._passed_over or self._held + len(part) > self.max_bytes:
            self._passed_over += self._held + len(part)
            self._parts, self._held = [], 0
        else:
            self._parts.append(part)
            self._held += len(part)

    def _take(self) -> bytes | Damage:
        self.position += 1
        size, line = self._passed_over, b"".join(self._parts)
        self._parts, self._held, self._passed_over = [], 0, 0
        return _too_long(self.position, size, self.max_bytes) if size else line


def _too_long(position: int, size: int, limit: int) -> Damage:
    return Damage(position, "record_too_long", "bytes", float(size), float(limit))


def _parse(line: bytes | Damage, position: int) -> Iterator[Record | Damage]:
    if isinstance(line, Damage):
        yield line
        return
    if not line.strip():
        return
    try:
        decoded = line.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        yield Damage(position, "invalid_utf8", f"{error.reason} at byte {error.start}")
        return
    try:
        fields = orjson.loads(decoded)
    except orjson.JSONDecodeError as error:
        yield Damage(position, "invalid_json", str(error))
        return
    if not isinstance(fields, dict):
        yield Damage(position, "invalid_record", f"a {type(fields).__name__}, not an object")
    elif not isinstance(fields.get("text"), str):
        yield Damage(position, "invalid_record", "no string under the key text")
    else:
        yield _record(fields, position)


def _record(fields: dict[str, Any], position: int) -> Record:
    def text_of(name: str) -> str | None:
        value = fields.get(name)
        return value if isinstance(value, str) and value else None

    identity = fields.get("id")
    if isinstance(identity, int) and not isinstance(identity, bool):
        key: str | None = str(identity)
    else:
        key = text_of("id") or text_of("url")
    rest = {name: value for name, value in fields.items() if name not in _KNOWN_FIELDS}
    meta = orjson.dumps(rest, option=orjson.OPT_SORT_KEYS).decode() if rest else None
    return Record(position, key, fields["text"], text_of("url"), text_of("language"), meta)


def _read_text(file: InputFile, max_bytes: int) -> Record | Damage:
    parts: list[bytes] = []
    size = 0
    try:
        for chunk in file.chunks():
            size += len(chunk)
            if size <= max_bytes:
                parts.append(chunk)
            else:
                parts.clear()
    except CorruptArchiveError as error:
        return Damage(1, "corrupt_archive", str(error))
    if size > max_bytes:
        return _too_long(1, size, max_bytes)
    try:
        text = b"".join(parts).decode()
    except UnicodeDecodeError as error:
        return Damage(1, "invalid_utf8", f"{error.reason} at byte {error.start}")
    return Record(1, None, text, None, None, None)
