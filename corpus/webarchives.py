"""Web archives: WARC, WET and ARC become pages and texts; the rest is counted by kind.

A record is found by its header and length alone (ISO 28500; the Internet Archive's ARC format), so
one that is broken costs what lies before the next header, and reading can start at any record. HTML
of a response or a resource is given as bytes after its transfer and content encodings are undone
(RFC 9112, RFC 9110), with the charset of its header; `conversion` records (WET) are text. Requests,
metadata, revisits and the like hold no document: each is a drop named by its type, so that what
came in is what was kept and dropped.

A record's key is its URL: a page crawled again is the same document.
"""

import io
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fastwarc.stream_io import BrotliReader
from resiliparse.parse.encoding import map_encoding_to_html5

from corpus.cursor import Cursor
from corpus.records import Damage, Record, invalid_utf8, meta_of, too_long

# No header of a crawler comes near; fastwarc and warcio stop at 16 to 64 KiB.
_HEADER_BYTES = 2**16
_START = re.compile(rb"WARC/\d|[a-z]+:\S* \S+ \d{8,14} (?:\S+ )+-?\d+ *\r?\n")
# Enough for a WARC's first word, for most of ARC's headers, and for the longest URLs in them.
_LOOKS = (6, 256, 4096)
_HTML = ("text/html", "application/xhtml+xml")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([^\s\"';,]+)", re.IGNORECASE)
_LOOKS_LIKE_HTML = re.compile(
    rb"\s*(?:<!--.*?-->\s*)?<(?:!doctype html|html|head|body)", re.I | re.S
)


class _Head(NamedTuple):
    """What the header of a record says."""

    kind: str
    url: str | None
    date: str | None
    mime: str
    length: int
    language: str | None = None


def read_webarchive(cursor: Cursor, max_bytes: int) -> Iterator[Record | Damage]:
    """Give the documents of an archive, and a drop for every record that is none."""
    while (start := _next_start(cursor)) is not None:
        found = _read_record(cursor, start, max_bytes)
        # Not before: where the archive breaks, the record it breaks in was not given.
        cursor.position += 1
        yield found


def _read_record(cursor: Cursor, start: bool, max_bytes: int) -> Record | Damage:
    position = cursor.position + 1
    if not start:
        size = _pass_garbage(cursor)
        return Damage(position, "invalid_record", f"{size} bytes between records")
    try:
        head = _read_head(cursor)
    except ValueError as error:
        _pass_garbage(cursor)
        return Damage(position, "invalid_record", str(error))
    return _read_body(cursor, head, position, max_bytes)


def _next_start(cursor: Cursor) -> bool | None:
    """Go past blank lines; tell whether a record starts here, None at the end."""
    while (head := cursor.peek(1)) in (b"\r", b"\n"):
        cursor.skip(1)
    return _starts(cursor) if head else None


def _starts(cursor: Cursor) -> bool:
    """Tell whether a record starts here, looking no further than it takes.

    Where the archive breaks soon, what would be looked at in vain stands before the break.
    """
    return any(_START.match(cursor.peek(size)) for size in _LOOKS)


def _pass_garbage(cursor: Cursor) -> int:
    """Go past lines that start no record; return how many bytes they have."""
    start = cursor.offset
    while cursor.peek(1) and not _starts(cursor):
        cursor.until(b"\n", _HEADER_BYTES)
    return cursor.offset - start


def _read_head(cursor: Cursor) -> _Head:
    first = _header_line(cursor)
    if not first.startswith("WARC/"):
        fields = first.split(" ")
        kind = "warcinfo" if first.startswith("filedesc:") else "response"
        return _Head(kind, fields[0], fields[2], fields[3].lower(), _length(fields[-1]))
    named: dict[str, str] = {}
    total = 0
    while line := _header_line(cursor):
        total += len(line)
        if total > _HEADER_BYTES:
            raise ValueError("a header over the limit")
        name, _, value = line.partition(":")
        named.setdefault(name.strip().lower(), value.strip())
    language = named.get("warc-identified-content-language", "").partition(",")[0]
    return _Head(
        named.get("warc-type", "unknown").lower(),
        named.get("warc-target-uri", "").strip("<>") or None,
        named.get("warc-date"),
        named.get("content-type", "").partition(";")[0].strip().lower(),
        _length(named.get("content-length", "")),
        language or None,
    )


def _header_line(cursor: Cursor) -> str:
    line = cursor.until(b"\n", _HEADER_BYTES)
    if line is None or isinstance(line, int):
        raise ValueError("a header without an end")
    return line.strip(b"\r\n ").decode("utf-8", "replace")


def _length(value: str) -> int:
    # Eighteen digits are more than any file; int() would take signs, spaces and underscores.
    if not re.fullmatch("[0-9]{1,18}", value.strip()):
        raise ValueError(f"no length in the header, found {value[:40]!r}")
    return int(value)


def _read_body(cursor: Cursor, head: _Head, position: int, max_bytes: int) -> Record | Damage:
    wanted = head.kind in ("response", "resource", "conversion") and head.length <= max_bytes
    body = cursor.read(head.length) if wanted else b""
    found = len(body) if wanted else cursor.skip(head.length)
    if found < head.length:
        detail = "bytes of a record that its header announces"
        return Damage(position, "truncated_record", detail, float(found), float(head.length))
    if head.kind not in ("response", "resource", "conversion"):
        return Damage(position, f"warc_{_rule_name(head.kind)}", head.url or "")
    if head.length > max_bytes:
        return too_long(position, head.length, max_bytes)
    if head.kind == "response":
        return _response(position, head, body, max_bytes)
    return _document(position, head, body, {}, None)


def _rule_name(kind: str) -> str:
    known = ("warcinfo", "request", "metadata", "revisit", "continuation")
    return kind if kind in known else "unknown"


def _response(position: int, head: _Head, body: bytes, max_bytes: int) -> Record | Damage:
    if not body.startswith(b"HTTP/"):
        if head.mime in (*_HTML, "text/plain"):
            return _document(position, head, body, {}, None)
        return Damage(position, "warc_no_page", head.mime or "no HTTP")
    end = re.search(rb"\r?\n\r?\n", body)
    lines = body[: end.start() if end else None].decode("latin-1").splitlines()
    status = lines[0].split(" ")[1:2]
    if status != ["200"]:
        code = float(status[0]) if status and re.fullmatch("[0-9]{3}", status[0]) else None
        return Damage(position, "http_status", head.url or "", code, 200.0)
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers.setdefault(name.strip().lower(), value.strip())
    mime = headers.get("content-type", "").partition(";")[0].strip().lower()
    charset = _CHARSET.search(headers.get("content-type", ""))
    try:
        page = _decode(body[end.end() :] if end else b"", headers, max_bytes)
    except (ValueError, OSError, zlib.error) as error:
        return Damage(position, "undecodable_content", str(error))
    if len(page) > max_bytes:
        return too_long(position, len(page), max_bytes)
    named = charset.group(1) if charset else None
    return _document(position, head._replace(mime=mime), page, {"status": 200}, named)


def _document(
    position: int, head: _Head, body: bytes, more: Mapping[str, int], charset: str | None
) -> Record | Damage:
    said = {"date": head.date, "mime": head.mime, **more}
    meta = meta_of({name: value for name, value in said.items() if value})
    if head.mime in _HTML or (not head.mime and _LOOKS_LIKE_HTML.match(body)):
        return Record(position, head.url, "", head.url, head.language, meta, "html", body, charset)
    if head.mime != "text/plain":
        return Damage(position, "warc_not_text", head.mime)
    encoding = _encoding(charset)
    if encoding is None:
        return Damage(position, "undecodable_content", f"charset {charset}")
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        return invalid_utf8(position, error)
    return Record(position, head.url, text, head.url, head.language, meta)


def _encoding(charset: str | None) -> str | None:
    """Return Python's name of the encoding that browsers know by a label, or None.

    Python has more codecs than encodings of text: `punycode` and `unicode_escape` give lone
    surrogates, `undefined` nothing at all.
    """
    found = map_encoding_to_html5(charset, False) if charset else "utf-8"
    # With the name of a byte order Python takes the mark that says it for a character.
    return "utf-16" if found == "utf-16-le" else found


def _decode(body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        body = _join_chunks(body)
    codings = headers.get("content-encoding", "").lower().split(",")
    for coding in reversed([each.strip() for each in codings]):
        body = _undo(coding, body, max_bytes)
    return body


def _join_chunks(body: bytes) -> bytes:
    """Undo chunked transfer coding; a body that says so and is not stays as it is."""
    parts: list[bytes] = []
    at = 0
    while True:
        line = re.compile(rb"([0-9a-fA-F]{1,8})[^\n]{0,1000}\n").match(body, at)
        if line is None:
            if not parts:
                return body
            raise ValueError(f"chunked transfer coding breaks at byte {at}")
        size = int(line.group(1), 16)
        if not size:
            return b"".join(parts)
        parts.append(body[line.end() : line.end() + size])
        after = line.end() + size
        if after > len(body):
            raise ValueError("the last chunk is cut off")
        at = after + (2 if body[after : after + 2] == b"\r\n" else 1)


def _undo(coding: str, body: bytes, max_bytes: int) -> bytes:
    """Undo a content coding up to a byte over the limit; crawlers may have undone it already."""
    if coding in ("", "identity", "none") or not body:
        return body
    if coding in ("gzip", "x-gzip"):
        return _inflate(body, 31, max_bytes) if body.startswith(b"\x1f\x8b") else body
    if coding == "deflate":
        # Some servers send zlib's format, as they should, others bare deflate.
        zlib_format = body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        return _inflate(body, 15 if zlib_format else -15, max_bytes)
    if coding == "br":
        data = BrotliReader(io.BytesIO(body)).read(max_bytes + 1)
        return bytes(data)
    raise ValueError(f"content coding {coding[:40]}")


def _inflate(body: bytes, bits: int, max_bytes: int) -> bytes:
    decoder = zlib.decompressobj(bits)
    data = decoder.decompress(body, max_bytes + 1)
    if len(data) <= max_bytes and not decoder.eof:
        raise ValueError("compressed content is cut off")
    return data
