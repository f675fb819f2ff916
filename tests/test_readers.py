"""Raw bytes in, records and damage with their places out, and nothing else."""

import gzip
import json
import random
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from corpus import archives, readers
from corpus.archives import InputFile
from corpus.files import checksum, write_bytes
from corpus.formats import detect_format
from corpus.readers import read_records
from corpus.records import Damage, ReadOptions, Record

LIMIT = 10_000

in_tmp = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, data: bytes, limit: int = LIMIT) -> list[Record | Damage]:
    """Write bytes under a name and read them back as records."""
    path.write_bytes(data)
    file = InputFile(str(path))
    try:
        found = list(read_records(file, detect_format(path.name), limit))
        assert file.checksum() == checksum(str(path))
    finally:
        file.close()
    return found


def texts(found: list[Record | Damage]) -> list[tuple[int, str]]:
    """Return (position, text or rule)."""
    return [(e.position, e.text if isinstance(e, Record) else e.rule) for e in found]


def line(text: str, **fields: Any) -> bytes:  # noqa: ANN401 - JSON values
    return orjson.dumps({"text": text, **fields}) + b"\n"


def compress(name: str, data: bytes) -> bytes:
    if name == ".gz":
        return gzip.compress(data)
    return zstandard.ZstdCompressor(write_checksum=True).compress(data) if name else data


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl(tmp_path: Path, suffix: str) -> None:
    data = line("one", id="x", url="http://u", language="en", b=2, a=[1, {"c": None}])
    data += b"\n  \t\r\n" + line("two").replace(b"\n", b"\r\n") + line("three").strip()
    assert read(tmp_path / f"a.jsonl{suffix}", compress(suffix, data)) == [
        Record(1, "x", "one", "http://u", "en", '{"a":[1,{"c":null}],"b":2}'),
        Record(4, None, "two", None, None, None),
        Record(5, None, "three", None, None, None),
    ]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_plain_text_is_one_document(tmp_path: Path, suffix: str) -> None:
    text = "Line one\r\n\r\nl\u00efne two\n" * 3
    data = compress(suffix, text.encode())
    assert read(tmp_path / f"a.txt{suffix}", data) == [Record(1, None, text, None, None, None)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_an_empty_file_has_no_record(tmp_path: Path, suffix: str) -> None:
    assert read(tmp_path / f"a.jsonl{suffix}", b"") == []
    assert read(tmp_path / f"a.jsonl{suffix}", compress(suffix, b"")) == []
    assert texts(read(tmp_path / f"a.txt{suffix}", compress(suffix, b""))) == [(1, "")]


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + line("one"))) == [(1, "one")]


@pytest.mark.parametrize(
    ("fields", "key", "url", "meta"),
    [
        ({"id": "x", "url": "u"}, "x", "u", None),
        ({"id": 17}, "17", None, None),
        ({"id": -1, "url": "u"}, "-1", "u", None),
        ({"id": 0}, "0", None, None),
        ({"id": 2**64 - 1}, "18446744073709551615", None, None),
        ({"url": "u"}, "u", "u", None),
        ({"id": "", "url": "u", "language": None}, "u", "u", None),
        ({"id": None, "url": "u", "language": ""}, "u", "u", None),
        ({"id": True, "url": 3}, None, None, '{"id":true,"url":3}'),
        ({"id": 1.5, "url": ["u"], "language": ["en"]}, None, None,
         '{"id":1.5,"language":["en"],"url":["u"]}'),
        ({"id": ["x"], "url": "u", "a": 1}, "u", "u", '{"a":1,"id":["x"]}'),
        ({"id": 0.0, "url": False}, "0", None, '{"url":false}'),
        ({"id": 7.0, "url": "u"}, "7", "u", None),
        ({"id": -(2.0**53) + 1}, "-9007199254740991", None, None),
        ({"id": 2.0**53}, None, None, '{"id":9007199254740992.0}'),
        ({}, None, None, None),
    ],
)  # fmt: skip
def test_the_key_is_the_id_or_the_url_and_other_values_are_meta(
    tmp_path: Path, fields: dict[str, Any], key: str | None, url: str | None, meta: str | None
) -> None:
    (record,) = read(tmp_path / "a.jsonl", line("t", **fields))
    assert isinstance(record, Record)
    assert (record.key, record.url, record.meta) == (key, url, meta)
    assert record.language is None


@pytest.mark.parametrize(
    ("bad", "rule", "detail"),
    [
        (b'{"text": "a"', "invalid_json", "line 1"),
        (b'{"text": "a"} x', "invalid_json", "unexpected content"),
        (b'{"text": NaN}', "invalid_json", ""),
        (b'{"text": "\\ud800"}', "invalid_json", "surrogate"),
        (b"[" * 5000, "invalid_json", ""),
        (b'{"text": "a\xff"}', "invalid_utf8", "invalid start byte at byte 11"),
        (b'{"text": "\xed\xa0\x80"}', "invalid_utf8", "at byte 10"),
        (b"[1, 2]", "invalid_record", "a list, not an object"),
        (b'"text"', "invalid_record", "a str, not an object"),
        (b"null", "invalid_record", "a NoneType, not an object"),
        (b"{}", "invalid_record", "no string under the key text"),
        (b'{"text": null}', "invalid_record", "no string under the key text"),
        (b'{"text": 3}', "invalid_record", "no string under the key text, found int"),
        (
            b'{"content": "a", "id": 1}',
            "invalid_record",
            "key text: set text_key to the one that holds the text (content, id)",
        ),
        (orjson.dumps({f"{n:050d}": 1 for n in range(20)}), "invalid_record", "0, ...)"),
    ],
)
def test_a_bad_line_is_one_damage_in_its_place(
    tmp_path: Path, bad: bytes, rule: str, detail: str
) -> None:
    found = read(tmp_path / "a.jsonl", line("before") + b"\n" + bad + b"\n" + line("after"))
    assert texts(found) == [(1, "before"), (3, rule), (4, "after")]
    damage = found[1]
    assert isinstance(damage, Damage)
    assert detail in damage.detail


def test_plain_text_that_is_not_utf8_is_damage(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", b"caf\xe9 au lait") == [
        Damage(1, "invalid_utf8", "invalid continuation byte at byte 3")
    ]


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "text", "paragraphs"])
@pytest.mark.parametrize(
    ("encoding", "text"), [("latin-1", "café"), ("cp932", "表計算, ソ"), ("gb18030", "中文")]
)
def test_other_encodings_are_read(tmp_path: Path, form: str, encoding: str, text: str) -> None:
    given = {
        "jsonl": f'{{"text": "{text}"}}\n',
        "csv": f'text\n"{text}"\n',
        "tsv": f"text\n{text}\n",
        "text": text,
        "paragraphs": f"{text}\n",
    }
    path = tmp_path / "a"
    path.write_bytes(given[form].encode(encoding))
    options = ReadOptions(encoding=encoding)
    with closing(InputFile(str(path))) as file:
        (found,) = read_records(file, form, LIMIT, options)
    assert isinstance(found, Record)
    assert found.text == text


def test_what_is_not_of_its_encoding_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b'{"text": "\x81"}\n{"text": "a"}')
    with closing(InputFile(str(path))) as file:
        found = list(read_records(file, "jsonl", LIMIT, ReadOptions(encoding="gb18030")))
    assert found[0] == Damage(
        1, "invalid_encoding", "gb18030: illegal multibyte sequence at byte 10"
    )
    assert isinstance(found[1], Record)


@pytest.mark.parametrize("chunk", [1, 7, 2**16])
def test_the_limit_is_the_longest_line_that_passes(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "STEP_BYTES", chunk)
    size = len(line("x" * 50)) - 1
    data = line("a") + line("x" * 50) + line("b")
    assert texts(read(tmp_path / "a.jsonl", data, size)) == [(1, "a"), (2, "x" * 50), (3, "b")]
    found = read(tmp_path / "a.jsonl", data, size - 1)
    assert texts(found) == [(1, "a"), (2, "record_too_long"), (3, "b")]
    assert found[1] == Damage(2, "record_too_long", "bytes", float(size), float(size - 1))
    assert read(tmp_path / "a.jsonl", data[: -len(line("b")) - 1], size - 1)[1] == found[1]


@pytest.mark.parametrize("chunk", [1, 7, 2**16])
def test_the_limit_of_plain_text(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "STEP_BYTES", chunk)
    assert texts(read(tmp_path / "a.txt", b"x" * 50, 50)) == [(1, "x" * 50)]
    assert read(tmp_path / "a.txt", b"x" * 51, 50) == [
        Damage(1, "record_too_long", "bytes", 51.0, 50.0)
    ]


def test_an_overlong_line_is_not_held(tmp_path: Path) -> None:
    """A megabyte of zeros is a kilobyte of zstd: what is held does not grow with the line."""
    path = tmp_path / "bomb.jsonl.zst"
    path.write_bytes(zstandard.compress(bytes(64 * 2**20)) + zstandard.compress(b"\n" + line("a")))
    file = InputFile(str(path))
    tracemalloc.start()
    for _ in read_records(file, "jsonl", LIMIT):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    file.close()
    assert peak < 4 * 2**20
    assert texts(read(path, path.read_bytes())) == [(1, "record_too_long"), (2, "a")]


# Runs in a process of its own: reads two files, the second printed, and how memory grew by it, MiB.
# Linux's own count: the peak that getrusage gives is inherited from the parent process.
_READ_ALONE = """
import re, sys
from pathlib import Path
from corpus.archives import InputFile
from corpus.readers import read_records
def read(path):
    return list(read_records(InputFile(path), "jsonl", 2**24))
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
read(sys.argv[1])
before = peak()
for each in read(sys.argv[2]):
    print(each.position, getattr(each, "rule", "text"), getattr(each, "value", None))
print(peak() - before)
"""


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("noise", "expected"),
    [(4000, ["1 record_too_long 1000000000.0", "2 text None"]), (0, ["1 decompression_bomb"])],
)
def test_a_line_of_a_gigabyte_stops_at_its_limits(
    tmp_path: Path, suffix: str, noise: int, expected: list[str]
) -> None:
    """Compressed 200-fold it is a line too long, more than 500-fold a bomb; neither is held."""
    megabyte = compress(suffix, random.Random(0).randbytes(noise).replace(b"\n", b"x").ljust(10**6))
    small, path = tmp_path / f"small.jsonl{suffix}", tmp_path / f"large.jsonl{suffix}"
    small.write_bytes(compress(suffix, line("a")))
    path.write_bytes(megabyte * 1000 + compress(suffix, b"\n" + line("a")))
    command = [sys.executable, "-c", _READ_ALONE, str(small), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *records, grown = done.stdout.splitlines()
    assert len(records) == len(expected)
    assert all(map(str.startswith, records, expected))
    assert path.stat().st_size < 10**7
    assert float(grown) < 3 * 16  # the pieces of a record at its limit, and chunks


def many_lines(count: int) -> tuple[bytes, list[tuple[int, str]]]:
    rng = random.Random(7)
    words = [str(rng.randrange(10**12)) for _ in range(count)]
    return b"".join(map(line, words)), list(enumerate(words, 1))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kept", [0.001, 0.5, 0.9, None])
def test_a_truncated_archive_gives_what_lies_before(
    tmp_path: Path, suffix: str, kept: float | None
) -> None:
    data, expected = many_lines(20_000)
    packed = compress(suffix, data)
    cut = len(packed) - 1 if kept is None else int(kept * len(packed))
    found = read(tmp_path / f"a.jsonl{suffix}", packed[:cut])
    assert texts(found)[:-1] == expected[: len(found) - 1]
    last = found[-1]
    assert isinstance(last, Damage)
    assert (last.position, last.rule) == (len(found), "corrupt_archive")
    # A gzip loses 4 KiB of text, a zstd its last block of at most 128 KiB (RFC 8878, 3.1.1.2).
    lost = 2**12 if suffix == ".gz" else 2**17
    share = cut / len(packed) * len(data)
    assert sum(len(text) + 12 for _, text in texts(found)[:-1]) > share - lost - 0.02 * len(data)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_flipped_bit_is_found(tmp_path: Path, suffix: str) -> None:
    data, _ = many_lines(5000)
    packed = bytearray(compress(suffix, data))
    packed[len(packed) // 2] ^= 1
    found = read(tmp_path / f"a.jsonl{suffix}", bytes(packed))
    # A byte that became a newline may leave a blank line.
    positions = [each.position for each in found]
    assert positions == sorted(set(positions))
    assert texts(found)[-1][1] == "corrupt_archive"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_garbage_after_an_archive_is_one_damage(tmp_path: Path, suffix: str) -> None:
    data, expected = many_lines(5000)
    found = read(tmp_path / f"a.jsonl{suffix}", compress(suffix, data) + b"garbage")
    assert texts(found)[-1][1] == "corrupt_archive"
    assert texts(found)[:-1] == expected[: len(found) - 1]
    assert len(found) > 4000


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_is_no_archive_at_all_is_one_damage(tmp_path: Path, suffix: str) -> None:
    for name in ("a.jsonl", "a.txt"):
        found = read(tmp_path / f"{name}{suffix}", line("plain text under a wrong name"))
        assert texts(found) == [(1, "corrupt_archive")]


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_members_and_frames_one_after_another_are_one_file(tmp_path: Path, suffix: str) -> None:
    half = line("long line")[:9]
    data = compress(suffix, line("a") + half) + compress(suffix, b"")
    data += compress(suffix, line("long line")[9:]) + compress(suffix, line("b"))
    found = read(tmp_path / f"a.jsonl{suffix}", data)
    assert texts(found) == [(1, "a"), (2, "long line"), (3, "b")]


class _BrokenDisk:
    """A file whose storage fails after some bytes."""

    def __init__(self, path: str) -> None:
        self._rest = [Path(path).read_bytes()[:1000]]

    def read(self, _: int) -> bytes:
        if self._rest:
            return self._rest.pop()
        raise OSError(5, "Input/output error")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.txt.gz"])
def test_a_failing_disk_is_no_property_of_the_data(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, _ = many_lines(5000)
    write_bytes(str(tmp_path / name), compress(Path(name).suffix.removeprefix(".jsonl"), data))
    monkeypatch.setattr(archives, "open_reader", _BrokenDisk)
    file = InputFile(str(tmp_path / name))
    with pytest.raises(OSError, match="Input/output error"):
        list(read_records(file, detect_format(name), LIMIT))


def test_an_unexpected_error_is_not_taken_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> NoReturn:
        raise RuntimeError("a bug")

    monkeypatch.setattr(readers, "record_of", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        read(tmp_path / "a.jsonl", line("a"))


@in_tmp
@given(st.binary(max_size=300) | st.lists(st.sampled_from([
    b"\n", b"\r", b" ", b"{", b"}", b'"text"', b":", b'"a"', b'{"text":"a"}', b"\xff", b"\xc3",
    b"\xa9", b"[", b"\x00", b",", b"1", b"\x0c", b'{"text":"' + b"x" * 60 + b'"}',
])).map(b"".join), st.integers(1, 80))  # fmt: skip
def test_every_line_that_is_not_blank_becomes_a_record_or_a_damage(
    tmp_path: Path, data: bytes, limit: int
) -> None:
    assume(archives.codec_of("any.jsonl", data) is None)
    found = read(tmp_path / "any.jsonl", data, limit)
    lines = data.split(b"\n")
    assert [each.position for each in found] == [
        n for n, line in enumerate(lines, 1) if line.strip() or len(line) > limit
    ]
    for each in found:
        too_long = len(lines[each.position - 1]) > limit
        assert too_long == (isinstance(each, Damage) and each.rule == "record_too_long")


@in_tmp
@given(st.binary(max_size=300), st.sampled_from([".gz", ".zst", ".txt.gz"]), st.booleans())
def test_arbitrary_bytes_in_an_archive_never_crash(
    tmp_path: Path, data: bytes, suffix: str, broken: bool
) -> None:
    packed = compress(suffix.removeprefix(".txt"), data)
    cut = len(packed) // 2 if broken else len(packed)
    found = read(tmp_path / f"any.jsonl{suffix}", packed[:cut])
    assert all(isinstance(each, Record | Damage) for each in found)


@in_tmp
@given(
    st.lists(st.sampled_from([b"\n", b'{"text":"\xc3\xa9"}', b"ab", b"\r\n", b" "])).map(b"".join)
)
def test_chunks_do_not_show(tmp_path: Path, data: bytes) -> None:
    whole = read(tmp_path / "any.jsonl", data, 12)
    for chunk in (1, 2, 3, 5):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archives, "STEP_BYTES", chunk)
            assert read(tmp_path / "any.jsonl", data, 12) == whole


def test_a_line_may_span_many_chunks(tmp_path: Path) -> None:
    long = "\u4f60" * 100_000
    for suffix in ("", ".gz", ".zst"):
        data = compress(suffix, line("a") + line(long) + line("b"))
        found = read(tmp_path / f"a.jsonl{suffix}", data, 10**6)
        assert texts(found) == [(1, "a"), (2, long), (3, "b")]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl", "jsonl"), ("a.ndjson.gz", "jsonl"), ("a.b.json.zst", "jsonl"),
        ("a.txt", "text"), ("a.md.gz", "text"), ("/x.jsonl/a.rst", "text"),
        ("a.csv.xz", "csv"), ("a.tsv.lz4", "tsv"), ("a.parquet", "parquet"), ("a.feather", "arrow"),
        ("a.warc.wet.gz", "warc"), ("a.arc.gz", "warc"), ("a.htm", "html"),
        ("d.xml.bz2", "wikipedia"), ("A.CSV", "csv"), ("X.TXT", "text"), ("a.JSON.Gz", "jsonl"),
        ("a.txt.zstd", "text"), ("D/A.JSONL.ZSTD", "jsonl"),
    ],
)  # fmt: skip
def test_the_format_goes_by_the_name(name: str, form: str) -> None:
    assert detect_format(name) == form


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_an_array_says_what_to_do_with_it(tmp_path: Path, indent: int | None, mark: str) -> None:
    """In one line and in many; a later line that is an array is a bad line and no more."""
    array = mark + json.dumps([{"text": "a"}, {"text": "b"}], indent=indent)
    first, *others = read(tmp_path / "a.json", array.encode() + b"\n[1]")
    assert isinstance(first, Damage)
    assert first.rule == ("invalid_json" if indent else "invalid_record")
    assert first.detail.endswith(": one JSON array: convert to JSON lines, an object a line")
    assert others
    assert not any("convert" in each.detail for each in others if isinstance(each, Damage))


def test_a_file_that_is_one_object_in_many_lines_says_what_to_do_with_it(tmp_path: Path) -> None:
    first, *others = read(tmp_path / "a.json", json.dumps({"text": "a"}, indent=1).encode())
    hint = ": an object of several lines: convert to JSON lines, an object a line"
    assert isinstance(first, Damage)
    assert first.detail.endswith(hint)
    assert others
    found = read(tmp_path / "b.json", b'{"text": "a",\n"b": 1}')
    assert [isinstance(each, Damage) and each.detail.endswith(hint) for each in found] == [
        True, False,
    ]  # fmt: skip
    (cut,) = read(tmp_path / "c.json", b'{"text": "a')
    assert isinstance(cut, Damage)
    assert "several" not in cut.detail


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv.gz", "a.txt"])
def test_another_encoding_is_named_once(tmp_path: Path, encoding: str, name: str) -> None:
    data = "\ufefftext\nmore\n".encode(encoding)
    found = read(tmp_path / name, compress(".gz", data) if name.endswith(".gz") else data)
    expected = [Damage(1, "invalid_utf8", "UTF-16 by its first bytes: convert it to UTF-8")]
    assert found == expected


@pytest.mark.parametrize("suffix", [".zst", ".gz"])
def test_compression_is_read_whatever_the_name_is_written_like(tmp_path: Path, suffix: str) -> None:
    other = {".zst": ".ZSTD", ".gz": ".GZ"}[suffix]
    found = read(tmp_path / f"A.JSONL{other}", compress(suffix, line("a") + line("b")))
    assert texts(found) == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("name", ["a", "a.gz", "a.docx", "jsonl", "a.jsonl.part"])
def test_a_name_that_tells_no_format_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"cannot tell the format of .*: set the source's format"):
        detect_format(name)


@pytest.mark.parametrize("name", ["d.7z", "b/e.RAR"])
def test_an_archive_that_is_not_looked_into_is_to_be_unpacked(name: str) -> None:
    with pytest.raises(ValueError, match=r"not looked into, as tar and zip are: unpack it, and"):
        detect_format(name)
