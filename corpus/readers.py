"""Raw files become records; what cannot be read becomes damage with its place.

Which reader a file needs goes by the recipe, else by the file's name, else by its first bytes. All
of them stream: memory is one chunk, one batch of rows and one record, and a record beyond the size
limit is passed over without being held. A broken archive gives the records before the break and one
`corrupt_archive`, one that expands beyond all proportion ends as `decompression_bomb`; a failing
disk or network is no property of the data and raises.
"""

from collections.abc import Iterator

import orjson

from corpus.archives import ARCHIVE_SUFFIXES, BOMB_RATIO, BombError, CorruptArchiveError, InputFile
from corpus.records import Damage, Keys, Record, too_long
from corpus.tables import read_arrow, read_csv, read_parquet, record_of
from corpus.webarchives import read_web_archive
from corpus.wikipedia import read_wikipedia

# Raised by hand when the same bytes give other records.
VERSION = 2

_SUFFIXES = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "text", ".md": "text",
    ".rst": "text", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".arrow": "arrow",
    ".feather": "arrow", ".ipc": "arrow", ".warc": "warc", ".wet": "warc", ".arc": "warc",
    ".html": "html", ".htm": "html", ".xhtml": "html",
}  # fmt: skip
_BEGINNINGS = (
    (b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"\xff\xff\xff\xff", "arrow"), (b"WARC/", "warc"),
    (b"filedesc://", "warc"), (b"<mediawiki", "wikipedia"), (b"<!doctype html", "html"),
    (b"<html", "html"), (b"{", "jsonl"),
)  # fmt: skip
_SNIFFED_BYTES = 4096


def detect_format(path: str) -> str:
    """Tell the format of a file by its name, else by its content; `ValueError` where neither does.

    A name in `.xml` tells nothing: dumps of Wikipedia are known by what they begin with.
    """
    stem = path.lower()
    for suffix in ARCHIVE_SUFFIXES:
        stem = stem.removesuffix(suffix)
    for suffix, found in _SUFFIXES.items():
        if stem.endswith(suffix):
            return found
    file = InputFile(path)
    try:
        head = file.first_bytes(_SNIFFED_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    finally:
        file.close()
    for beginning, found in _BEGINNINGS:
        if head.startswith(beginning.lower()):
            return found
    raise ValueError(
        f"cannot tell the format of {path} by its name or its first bytes: set the source's format "
        "(jsonl, csv, tsv, text, paragraphs, parquet, arrow, warc, html or wikipedia)"
    )


def read_records(
    file: InputFile,
    form: str,
    max_record_bytes: int,
    keys: Keys = Keys(),  # noqa: B008 - frozen
) -> Iterator[Record | Damage]:
    """Give every record of a file in order, and damage in the place of what cannot be read."""
    last = 0
    try:
        for item in _read(file, form, max_record_bytes, keys):
            last = item.position
            yield item
    except CorruptArchiveError as error:
        yield Damage(last + 1, "corrupt_archive", str(error))
    except BombError as error:
        ratio = float(error.args[0])
        yield Damage(last + 1, "decompression_bomb", "bytes out a byte in", ratio, BOMB_RATIO)


def _read(file: InputFile, form: str, limit: int, keys: Keys) -> Iterator[Record | Damage]:
    if form == "parquet":
        return read_parquet(file, limit, keys)
    if form == "arrow":
        return read_arrow(file, limit, keys)
    chunks = file.chunks()
    if form in ("csv", "tsv"):
        return read_csv(cut_lines(chunks, limit), "\t" if form == "tsv" else ",", limit, keys)
    if form == "jsonl":
        return _read_lines(chunks, limit, keys)
    return _PLAIN.get(form, _read_whole)(chunks, limit)


def cut_lines(chunks: Iterator[bytes], limit: int) -> Iterator[tuple[int, bytes | Damage]]:
    """Give the number and the content of every line; an overlong one comes out as damage.

    The last line need not end in a newline; what a broken archive cut off of it is not given.
    """
    number, parts, held = 0, list[bytes](), 0
    for chunk in chunks:
        first, *rest = chunk.split(b"\n")
        held += len(first)
        if held <= limit:
            parts.append(first)
        if not rest:
            continue
        number += 1
        yield number, (b"".join(parts) if held <= limit else too_long(number, held, limit))
        for line in rest[:-1]:
            number += 1
            yield number, (line if len(line) <= limit else too_long(number, len(line), limit))
        parts, held = [rest[-1]] if len(rest[-1]) <= limit else [], len(rest[-1])
    if held:
        number += 1
        yield number, (b"".join(parts) if held <= limit else too_long(number, held, limit))


def _read_lines(chunks: Iterator[bytes], limit: int, keys: Keys) -> Iterator[Record | Damage]:
    for position, line in cut_lines(chunks, limit):
        if isinstance(line, Damage):
            yield line
        elif line and not line.isspace():
            yield _parse(line, position, keys)


def _parse(line: bytes, position: int, keys: Keys) -> Record | Damage:
    try:
        fields = orjson.loads(line.removeprefix(b"\xef\xbb\xbf") if position == 1 else line)
    except orjson.JSONDecodeError as error:
        return _explain(line, position, error)
    if not isinstance(fields, dict):
        return Damage(position, "invalid_record", f"a {type(fields).__name__}, not an object")
    return record_of(fields, position, keys)


def _explain(line: bytes, position: int, error: orjson.JSONDecodeError) -> Damage:
    try:
        line.decode()
    except UnicodeDecodeError as broken:
        return Damage(position, "invalid_utf8", f"{broken.reason} at byte {broken.start}")
    return Damage(position, "invalid_json", str(error))


def _read_whole(chunks: Iterator[bytes], limit: int) -> Iterator[Record | Damage]:
    """Read a text that is one document."""
    data = _join(chunks, limit)
    yield data if isinstance(data, Damage) else _text_record(data, 1)


def _read_page(chunks: Iterator[bytes], limit: int) -> Iterator[Record | Damage]:
    """Read a page of HTML."""
    data = _join(chunks, limit)
    if isinstance(data, Damage):
        yield data
    else:
        yield Record(1, None, "", None, None, None, "html", data)


def _join(chunks: Iterator[bytes], limit: int) -> bytes | Damage:
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size <= limit:
            parts.append(chunk)
        else:
            parts.clear()
    return too_long(1, size, limit) if size > limit else b"".join(parts)


def _text_record(data: bytes, position: int) -> Record | Damage:
    try:
        return Record(position, None, data.decode(), None, None, None)
    except UnicodeDecodeError as error:
        return Damage(position, "invalid_utf8", f"{error.reason} at byte {error.start}")


def _read_paragraphs(chunks: Iterator[bytes], limit: int) -> Iterator[Record | Damage]:
    """Give the documents of a text that blank lines separate; positions count them."""
    held, size, position = list[bytes](), 0, 1
    for _, line in cut_lines(chunks, limit):
        if isinstance(line, Damage):
            size += int(line.value or 0)
        elif line and not line.isspace():
            size += len(line) + 1
            if size <= limit:
                held.append(line)
        elif size:
            yield _paragraph(held, size, position, limit)
            held, size, position = [], 0, position + 1
        if size > limit:
            held = []
    if size:
        yield _paragraph(held, size, position, limit)


def _paragraph(held: list[bytes], size: int, position: int, limit: int) -> Record | Damage:
    if size > limit:
        return too_long(position, size, limit)
    return _text_record(b"\n".join(held), position)


_PLAIN = {
    "text": _read_whole,
    "html": _read_page,
    "paragraphs": _read_paragraphs,
    "warc": read_web_archive,
    "wikipedia": read_wikipedia,
}
