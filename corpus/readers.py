"""Raw files become records; what cannot be read becomes damage with its place.

This room opens the reader of a format; JSON lines, text and HTML files are read
here, the rest in rooms of their own (`delimited`, `tables`, `webarchives`, `wikipedia`), and so are
files that hold files (`tars`, `zips`), of which each member has a format of its own. Reading
streams: memory is a chunk and a record, and a record beyond the size limit is passed over without
being held. A broken archive gives the records before the break and one `corrupt_archive`; a failing
disk or network is no property of the data and raises.
"""

import codecs
from collections.abc import Iterator
from contextlib import closing

import orjson

from corpus.archives import (
    MAX_RATIO,
    CorruptArchiveError,
    DecompressionBombError,
    InputFile,
)
from corpus.cursor import Cursor
from corpus.delimited import read_delimited
from corpus.formats import SEEKING
from corpus.members import MemberReader
from corpus.records import (
    UTF_8,
    Damage,
    ReadOptions,
    Record,
    bomb,
    invalid_utf8,
    record_of,
    too_long,
)
from corpus.tables import open_table, read_table
from corpus.tars import read_tar
from corpus.webarchives import read_webarchive
from corpus.wikipedia import read_wikipedia
from corpus.zips import read_zip

# Raised by hand when the same bytes give other records.
VERSION = 8

PLAIN = ReadOptions()
# UTF-16, and UTF-32 where it begins like it.
_WIDE_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


def read_records(
    file: InputFile,
    form: str,
    max_record_bytes: int,
    options: ReadOptions = PLAIN,
) -> Iterator[Record | Damage]:
    """Give every record of a file in order, and damage in the place of what cannot be read."""
    if form in SEEKING:
        yield from _whole_table(file, form, options, max_record_bytes)
        return
    cursor = Cursor(file.chunks(), growth=file.growth)
    yield from until_broken(cursor, read_from(cursor, form, max_record_bytes, options))


def read_from(
    cursor: Cursor,
    form: str,
    max_bytes: int,
    options: ReadOptions,
    header: list[str] | None = None,
    is_last: bool = True,
) -> Iterator[Record | Damage]:
    """Give the records that follow a cursor, which may be those of a part of a file.

    A CSV or TSV that is read from its middle needs its header.
    """
    if form == "html":
        return _read_text(cursor, max_bytes, options.model_copy(update={"markup": "html"}))
    if form in ("csv", "tsv"):
        delimiter = "," if form == "csv" else "\t"
        return _if_utf8(cursor, read_delimited(cursor, delimiter, options, max_bytes, header))
    if form == "wikipedia":
        return read_wikipedia(cursor, max_bytes, is_last)
    if form == "warc":
        return read_webarchive(cursor, max_bytes)
    if form == "tar":
        return read_tar(cursor, read_members(max_bytes, options))
    own = {"jsonl": _read_lines, "paragraphs": _read_paragraphs, "text": _read_text}
    return _if_utf8(cursor, own[form](cursor, max_bytes, options))


def _if_utf8(cursor: Cursor, records: Iterator[Record | Damage]) -> Iterator[Record | Damage]:
    """Give the records, or one damage for a file that begins by saying it is UTF-16."""
    if cursor.position == 0 and cursor.peek(4).startswith(_WIDE_MARKS):
        cursor.rest()
        cursor.position = 1
        yield Damage(1, "invalid_utf8", "UTF-16 by its first bytes: convert it to UTF-8")
        return
    yield from records


def until_broken(cursor: Cursor, records: Iterator[Record | Damage]) -> Iterator[Record | Damage]:
    """Give records up to where the archive breaks or proves a bomb, and then that damage."""
    try:
        yield from records
    except CorruptArchiveError as error:
        yield Damage(cursor.position + 1, "corrupt_archive", str(error))
    except DecompressionBombError as error:
        yield bomb(cursor.position + 1, error.ratio, MAX_RATIO)


def _whole_table(
    file: InputFile, form: str, options: ReadOptions, max_bytes: int
) -> Iterator[Record | Damage]:
    try:
        data = open_table(file)
    except CorruptArchiveError as error:
        yield Damage(1, "corrupt_archive", str(error))
        return
    except DecompressionBombError as error:
        yield bomb(1, error.ratio, MAX_RATIO)
        return
    with closing(data):
        if form == "zip":
            yield from read_zip(data, read_members(max_bytes, options))
        else:
            yield from read_table(data, form, options, max_bytes)


def read_members(max_bytes: int, options: ReadOptions) -> MemberReader:
    """Return what reads the members of an archive."""
    return MemberReader(
        lambda cursor, form: read_from(cursor, form, max_bytes, options), options.members
    )


def _read_lines(cursor: Cursor, max_bytes: int, options: ReadOptions) -> Iterator[Record | Damage]:
    while (line := cursor.until(b"\n", max_bytes)) is not None:
        cursor.position += 1
        if isinstance(line, int):
            yield too_long(cursor.position, line, max_bytes)
        elif line and not line.isspace():
            yield _parse(line, cursor.position, options)


def _parse(line: bytes, position: int, options: ReadOptions) -> Record | Damage:
    try:
        if options.encoding != UTF_8:
            line = line.decode(options.encoding).encode()
        fields = orjson.loads(line.removeprefix(b"\xef\xbb\xbf"))
    except UnicodeDecodeError as error:
        return invalid_utf8(position, error)
    except orjson.JSONDecodeError as error:
        try:
            line.decode()
        except UnicodeDecodeError as reason:
            return invalid_utf8(position, reason)
        return Damage(position, "invalid_json", f"{error}{_hint(line, position)}")
    if not isinstance(fields, dict):
        detail = f"a {type(fields).__name__}, not an object{_hint(line, position)}"
        return Damage(position, "invalid_record", detail)
    return record_of(fields, position, options)


def _hint(line: bytes, position: int) -> str:
    """Say what to do where a file begins with a value of many lines: it is no JSON lines."""
    if position > 1:
        return ""
    line = line.removeprefix(b"\xef\xbb\xbf").strip()
    if line.startswith(b"["):
        return ": one JSON array: convert to JSON lines, an object a line"
    is_open = line.startswith(b"{") and line.endswith((b"{", b"[", b","))
    return (
        ": an object of several lines: convert to JSON lines, an object a line" if is_open else ""
    )


def _read_paragraphs(
    cursor: Cursor, max_bytes: int, options: ReadOptions
) -> Iterator[Record | Damage]:
    """Give documents that blank lines separate; their position is their first line."""
    parts: list[bytes] = []
    size = first = 0
    while (line := cursor.until(b"\n", max_bytes)) is not None:
        cursor.position += 1
        if isinstance(line, bytes) and not line.strip():
            if size:
                yield _document(b"\n".join(parts), first, size, max_bytes, options)
            parts, size = [], 0
            continue
        first = first if size else cursor.position
        size += line if isinstance(line, int) else len(line) + bool(size)
        if isinstance(line, bytes) and size <= max_bytes:
            parts.append(line)
        else:
            parts.clear()
            size = max(size, max_bytes + 1)
    if size:
        yield _document(b"\n".join(parts), first, size, max_bytes, options)


def _read_text(cursor: Cursor, max_bytes: int, options: ReadOptions) -> Iterator[Record | Damage]:
    data = cursor.read(max_bytes + 1)
    size = len(data)
    if size > max_bytes:
        size += cursor.rest()
        data = b""
    cursor.position += 1
    yield _document(data, 1, size, max_bytes, options)


def _document(
    data: bytes, position: int, size: int, max_bytes: int, options: ReadOptions
) -> Record | Damage:
    if size > max_bytes:
        return too_long(position, size, max_bytes)
    if options.markup == "html":
        return Record(position, None, "", None, None, None, "html", data)
    try:
        return Record(position, None, data.decode(options.encoding), None, None, None)
    except UnicodeDecodeError as error:
        return invalid_utf8(position, error)
