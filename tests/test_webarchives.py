"""Archives of the web: pages with their bytes and headers, and a counted drop for the rest."""

import gzip
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from corpus.archives import InputFile
from corpus.readers import read_records
from corpus.records import Damage, Record

LIMIT = 2**20
PAGE = b"<html><p>caf\xe9</p></html>"


def warc(kind: str, block: bytes, mime: str = "application/http", **headers: str) -> bytes:
    named = {"WARC-Target-URI": "http://e.com/", "WARC-Date": "2024-01-02T03:04:05Z", **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in named.items()]
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\n{''.join(lines)}Content-Type: {mime}\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%s\r\n\r\n" % (len(block), block)


def http(body: bytes, *headers: str, status: str = "200 OK", mime: str = "text/html") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {mime}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def read(path: Path, data: bytes, limit: int = LIMIT) -> list[Record | Damage]:
    path.write_bytes(data)
    file = InputFile(str(path))
    found = list(read_records(file, "warc", limit))
    file.close()
    return found


def rules(found: Sequence[Record | Damage]) -> list[tuple[int, str]]:
    return [(e.position, e.rule if isinstance(e, Damage) else "kept") for e in found]


def test_a_page_comes_with_its_bytes_and_charset(tmp_path: Path) -> None:
    data = warc("response", http(PAGE, mime="text/html; charset=ISO-8859-1"))
    expected = '{"date":"2024-01-02T03:04:05Z","mime":"text/html","status":200}'
    url = "http://e.com/"
    assert read(tmp_path / "a.warc", data) == [
        Record(1, url, "", url, None, expected, "html", PAGE, "ISO-8859-1")
    ]
    members = gzip.compress(data) + gzip.compress(data)
    assert len(read(tmp_path / "a.warc.gz", members)) == 2


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Encoding: gzip", gzip.compress(PAGE, mtime=0)),
        ("Content-Encoding: gzip", PAGE),
        ("Content-Encoding: deflate", zlib.compress(PAGE)),
        ("Content-Encoding: deflate", deflate(PAGE)),
        ("Content-Encoding: identity", PAGE),
        ("Transfer-Encoding: chunked",
         b"5;x=y\r\n" + PAGE[:5] + b"\r\n13\r\n" + PAGE[5:] + b"\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", PAGE),
    ],
)  # fmt: skip
def test_encodings_are_undone(tmp_path: Path, header: str, body: bytes) -> None:
    assert len(PAGE) == 24 == 5 + 0x13
    (found,) = read(tmp_path / "a.warc", warc("response", http(body, header)))
    assert isinstance(found, Record)
    assert found.page == PAGE


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (warc("response", http(b"\x1f\x8bno", "Content-Encoding: gzip")), "undecodable_content"),
        (warc("response", http(gzip.compress(PAGE, mtime=0)[:-9], "Content-Encoding: gzip")),
         "undecodable_content"),
        (warc("response", http(b"x", "Content-Encoding: xor")), "undecodable_content"),
        (warc("response", http(b"\xff" * 9, "Content-Encoding: br")), "undecodable_content"),
        (warc("response", http(b"5\r\nab", "Transfer-Encoding: chunked")), "undecodable_content"),
        (warc("response", http(gzip.compress(bytes(2 * LIMIT), mtime=0), "Content-Encoding: gzip")),
         "record_too_long"),
        (warc("response", http(PAGE, status="404 Not Found")), "http_status"),
        (warc("response", http(b"GIF89a", mime="image/gif")), "warc_not_text"),
        (warc("response", b"dns record", mime="text/dns"), "warc_no_page"),
        (warc("request", b"GET /"), "warc_request"),
        (warc("revisit", http(b"")), "warc_revisit"),
        (warc("metadata", b"x"), "warc_metadata"),
        (warc("warcinfo", b"x"), "warc_warcinfo"),
        (warc("nonsense", b"x"), "warc_unknown"),
        (warc("conversion", b"caf\xe9", mime="text/plain"), "invalid_utf8"),
        (warc("response", bytes(LIMIT + 1)), "record_too_long"),
        (b"garbage\n\nmore\n", "invalid_record"),
        (warc("response", PAGE).replace(b"Length: 24", b"Length: x"), "invalid_record"),
    ],
)  # fmt: skip
def test_what_is_no_page_is_a_drop_and_the_next_record_is_read(
    tmp_path: Path, data: bytes, rule: str
) -> None:
    after = warc("conversion", b"text", "text/plain")
    assert rules(read(tmp_path / "a.warc", data + after)) == [(1, rule), (2, "kept")]


def test_a_record_that_ends_early_says_how_much_there_is(tmp_path: Path) -> None:
    data = warc("conversion", b"some text", "text/plain")[:-8]
    assert rules(read(tmp_path / "a.warc", data)) == [(1, "truncated_record")]


def test_a_break_soon_after_a_record_leaves_it(tmp_path: Path) -> None:
    members = [gzip.compress(warc("conversion", b"some text", "text/plain"))] * 3
    packed = b"".join(members)[:-5]
    assert rules(read(tmp_path / "a.warc.gz", packed)) == [
        (1, "kept"), (2, "kept"), (3, "kept"), (4, "corrupt_archive"),
    ]  # fmt: skip
    assert rules(read(tmp_path / "b.warc.gz", packed[: -len(members[0]) // 2])) == [
        (1, "kept"), (2, "kept"), (3, "corrupt_archive"),
    ]  # fmt: skip


def test_a_break_is_told_in_the_place_of_the_record_it_lies_in(tmp_path: Path) -> None:
    data = warc("conversion", b"one", "text/plain") + warc("conversion", bytes(9999), "text/plain")
    packed = gzip.compress(data[:-5000])[:-9]
    assert rules(read(tmp_path / "a.warc.gz", packed)) == [(1, "kept"), (2, "corrupt_archive")]


def test_extracted_text_has_its_language(tmp_path: Path) -> None:
    headers = {"WARC-Identified-Content-Language": "fra,eng"}
    data = warc("conversion", "t\u00e9xte".encode(), "text/plain", **headers)
    (found,) = read(tmp_path / "a.warc", data)
    assert isinstance(found, Record)
    assert (found.text, found.language, found.markup) == ("t\u00e9xte", "fra", "none")


@pytest.mark.parametrize(
    ("charset", "body", "expected"),
    [
        ("ISO-8859-1", b"caf\xe9 \x93x\x94", "caf\u00e9 \u201cx\u201d"),
        ("GB2312", "\u4e2d\u6587".encode("gbk"), "\u4e2d\u6587"),
        ("utf-16", "\ufeffcaf\u00e9".encode("utf-16-be"), "caf\u00e9"),
        ("utf-16", "caf\u00e9".encode("utf-16-le"), "caf\u00e9"),
        ("us-ascii", b"plain", "plain"),
        ("utf-8", b"caf\xe9", "invalid_utf8"),
        ("utf-16", b"\x00\xd8", "invalid_encoding"),
        *(
            (charset, b"abc \\ud800 +2AA- -", "undecodable_content")
            for charset in (
                *("undefined", "utf\0", "punycode", "utf-7", "unicode_escape", "idna", "x\xe9"),
                *("raw_unicode_escape", "base64", "rot13", "mbcs", "unheard-of"),
            )
        ),
    ],
)
def test_plain_text_is_decoded_by_the_encodings_that_browsers_know(
    tmp_path: Path, charset: str, body: bytes, expected: str
) -> None:
    page = http(body, mime="text/plain; charset=@").replace(b"@", charset.encode("latin-1"), 1)
    after = warc("conversion", b"text", "text/plain")
    found, other = read(tmp_path / "a.warc", warc("response", page) + after)
    assert (found.text if isinstance(found, Record) else found.rule) == expected
    assert isinstance(other, Record)
    assert isinstance(found, Record) or found.position == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.arc", {"warc_warcinfo": 1, "kept": 1}),
        ("example.warc.gz", {"warc_warcinfo": 2, "kept": 1, "warc_request": 2, "warc_revisit": 1}),
        ("example.warc", {"warc_warcinfo": 2, "kept": 1, "warc_request": 2, "warc_revisit": 1}),
        ("example-bad-non-chunked.warc.gz",
         {"warc_warcinfo": 2, "kept": 1, "warc_request": 2, "warc_revisit": 1}),
        ("example-iana.org-chunked.warc", {"warc_warcinfo": 1, "kept": 1, "warc_request": 1}),
        ("example-space-in-target-uri.warc.gz", {"warc_warcinfo": 1, "warc_not_text": 1}),
        ("example-wget-bad-target-uri.warc.gz",
         {"warc_warcinfo": 1, "warc_request": 1, "kept": 3, "warc_metadata": 1}),
        ("example-digest.warc", {"warc_request": 4}),
        ("example-resource.warc.gz", {"warc_warcinfo": 2, "kept": 1}),
        ("example-wrong-chunks.warc.gz", {"kept": 1, "warc_request": 1}),
        ("post-test.warc.gz", {"warc_not_text": 3, "warc_request": 3}),
        ("example-trunc.warc",
         {"warc_warcinfo": 2, "undecodable_content": 1, "invalid_record": 1, "warc_request": 1}),
    ],
)  # fmt: skip
def test_odd_archives(shared_data: Path, name: str, expected: dict[str, int]) -> None:
    path = shared_data / "web" / "warc-odd" / name
    file = InputFile(str(path))
    found = list(read_records(file, "warc", LIMIT))
    file.close()
    assert Counter(rule for _, rule in rules(found)) == expected
    assert [each.position for each in found] == list(range(1, len(found) + 1))
    if name.endswith(".arc"):
        return
    data = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    # What stands between two records is no record of its own.
    garbage = sum(isinstance(each, Damage) and "between" in each.detail for each in found)
    assert data.count(b"WARC-Type: ") == len(found) - garbage
