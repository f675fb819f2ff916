"""Pieces of a file, put together, are the file."""

import bz2
import gzip
import io
import lzma
import random
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import lz4.frame
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_members import zipped

from benchmarks.fuzz import tar_of
from corpus import archives, splits
from corpus.archives import InputFile
from corpus.bzip2 import read_blocks
from corpus.files import checksum
from corpus.formats import sniff_format
from corpus.readers import read_records
from corpus.records import Damage, ReadOptions, Record
from corpus.splits import open_piece, read_piece, survey

LIMIT = 200
CSV = ("stray", "jungle")
in_tmp = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

# Of an archive: documents, files of several records, with and without any, and compressed ones.
FILES = {f"{n}.txt": b"text %d" % n for n in range(9)} | {
    **{f"{n}/lines.jsonl": b'{"text": "x"}\n{\n' * n for n in range(5)},
    **{f"{n}/empty.csv": b"" for n in range(2)},
    **{f"{n}/p.txt.gz": gzip.compress(b"packed %d" % n, mtime=0) for n in range(3)},
    "within.tar": tar_of({"a.txt": b"a", "b.jsonl": b'{"text": "b"}\n' * 9}),
    "picture.png": b"\x89PNG",
}

CODECS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lz4": lz4.frame.compress,
}
CONTENTS = {
    "jsonl": b"".join(orjson.dumps({"text": "x" * n}) + b"\n" * (1 + n % 3) for n in range(60)),
    "csv": b"id,text\n" + b"".join(b'%d,"a ""b""\nc%d"\n' % (n, n) for n in range(60)),
    # Quotes without an end: some run into the limit, some into the next quote, the last to the end.
    "stray": b"id,text\n"
    + b"".join(
        b'%d,%stext\n%d,"a\nb"\n' % (n, b'"' if n % 4 == 0 else b"", n)
        + b"%d,c\n" % n * (n % 9 * 5)
        for n in range(30)
    )
    + b'99,"oops\n98,d\n',
    "jungle": b'id,text\n1,a","b\n' + b'2,"c\n",d","\n3,e\n' * 60,
    "tsv": b"id\ttext\n" + b"".join(b'%d\tan " odd one\n' % n for n in range(60)),
    "paragraphs": b"".join(b"line\nand %d\n\n\n" % n for n in range(60)),
    "wikipedia": b"<mediawiki>"
    + b"".join(
        b"<page><ns>0</ns><id>%d</id><revision><text>t%d</text></revision></page>\n" % (n, n)
        for n in range(40)
    )
    + b"</mediawiki>",
    "warc": b"".join(
        b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: u%d\r\nContent-Type: text/plain"
        b"\r\nContent-Length: 4\r\n\r\ntext\r\n\r\n" % n
        for n in range(40)
    ),
    "text": b"one document\nof two lines",
    "tar": tar_of(FILES),
    "zip": zipped(FILES),
}


def test_a_header_may_have_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id,größe,text\n".encode("latin-1") + b"1,2,caf\xe9\n" * 60)
    options = ReadOptions(encoding="latin-1")
    pieces, _ = survey(str(path), "csv", 100, LIMIT, options)
    assert len(pieces) > 1
    for piece in pieces:
        with closing(open_piece(str(path), "csv", piece)) as file:
            for record in read_piece(file, "csv", piece, LIMIT, options):
                assert isinstance(record, Record)
                assert (record.text, record.meta) == ("café", '{"größe":"2"}')


def whole(path: Path, form: str) -> list[Record | Damage]:
    file = InputFile(str(path))
    found = list(read_records(file, form, LIMIT))
    file.close()
    return found


def in_pieces(path: Path, form: str, piece_bytes: int) -> tuple[list[Record | Damage], int]:
    """Read a file piece by piece, checking every checksum; return its records and the pieces."""
    pieces, digest = survey(str(path), form, piece_bytes, LIMIT)
    assert digest == checksum(str(path))
    found: list[Record | Damage] = []
    for piece in pieces:
        file = open_piece(str(path), form, piece)
        found += read_piece(file, form, piece, LIMIT)
        assert file.checksum() == piece.checksum
        file.close()
    return found, len(pieces)


def members(data: bytes, size: int, suffix: str) -> bytes:
    """Compress every so many bytes by themselves."""
    return b"".join(
        CODECS[suffix](data[at : at + size]) for at in range(0, max(1, len(data)), size)
    )


@in_tmp
@given(
    st.sampled_from(sorted(CONTENTS)),
    st.sampled_from(sorted(CODECS)),
    st.integers(20, 3000),
    st.tuples(st.integers(1, 2000), st.sampled_from([None, 1, 30])),
    st.none() | st.tuples(st.floats(0, 1), st.booleans()),
)
def test_pieces_together_are_the_file(
    tmp_path: Path,
    form: str,
    suffix: str,
    member_bytes: int,
    sizes: tuple[int, int | None],
    broken: tuple[float, bool] | None,
) -> None:
    piece_bytes, step = sizes
    data = bytearray(members(CONTENTS[form], member_bytes, suffix))
    if broken is not None:
        at = int(broken[0] * (len(data) - 1))
        if broken[1]:
            del data[at:]
        else:
            data[at] ^= 1
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    form = "csv" if form in CSV else form
    with pytest.MonkeyPatch.context() as patch:
        if step is not None:
            read_in_steps(patch, step)
        assert in_pieces(path, form, piece_bytes)[0] == whole(path, form)


def read_in_steps(patch: pytest.MonkeyPatch, step: int) -> None:
    """Let few bytes be read and decompressed at a time, so that members are long beside that."""
    patch.setattr(archives, "RAW_BYTES", step)
    patch.setattr(archives, "STEP_BYTES", 2 * step)


@pytest.mark.parametrize("suffix", sorted(CODECS))
@pytest.mark.parametrize("form", ["jsonl", "csv", "warc", "tar"])
def test_a_file_of_many_members_is_split_between_them(
    tmp_path: Path, form: str, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(members(CONTENTS[form], 100, suffix))
    assert in_pieces(path, form, 300)[1] > 1


def long_content(form: str) -> bytes:
    """Return 500 kB or more that hardly compress, so that codecs make several blocks of them."""
    rng = random.Random(form)
    texts = [rng.randbytes(60).hex().encode() for _ in range(4000)]
    if form == "tar":
        return tar_of({f"{n}.txt": text for n, text in enumerate(texts)})
    frames = {
        "jsonl": (b"", b'{"text": "%s"}\n'),
        "csv": (b"id,text\n", b'1,"%s\nof two lines"\n'),
        "paragraphs": (b"", b"%s\nof two lines\n\n"),
        "wikipedia": (
            b"<mediawiki>",
            b"<page><ns>0</ns><id>1</id><revision><text>%s</text></revision></page>\n",
        ),
        "warc": (
            b"",
            b"WARC/1.0\r\nWARC-Type: conversion\r\nWARC-Target-URI: u\r\n"
            b"Content-Type: text/plain\r\nContent-Length: 120\r\n\r\n%s\r\n\r\n",
        ),
    }
    begin, record = frames[form]
    return begin + b"".join(record % text for text in texts)


LINES = pytest.mark.parametrize("form", ["jsonl", "csv", "paragraphs", "wikipedia", "warc", "tar"])


@pytest.mark.parametrize("streams", [1, 3])
@LINES
def test_bzip2_is_split_between_blocks(tmp_path: Path, form: str, streams: int) -> None:
    content = long_content(form)
    size = -(-len(content) // streams)
    path = tmp_path / "a.bz2"
    path.write_bytes(
        b"".join(bz2.compress(content[at : at + size], 1) for at in range(0, len(content), size))
    )
    pieces, _ = survey(str(path), form, 10_000, LIMIT)
    with path.open("rb") as raw:
        blocks = [start for start, _ in read_blocks(raw.read)]
    starts = [piece.start for piece in pieces]
    assert len(starts) > 4
    assert set(starts) <= set(blocks)
    assert starts == sorted(set(starts))
    # No piece begins far within what is decompressed for it.
    assert max(piece.skip for piece in pieces) < 1000
    found, _ = in_pieces(path, form, 10_000)
    assert len(found) >= 4000
    assert found == whole(path, form)


@pytest.mark.parametrize("suffix", sorted(set(CODECS) - {"", ".bz2"}))
@LINES
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_file_of_one_member_is_split_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, suffix: str, share: float
) -> None:
    """The more stands before a piece, which is decompressed for it, the longer it is."""
    read_in_steps(monkeypatch, 1000)
    monkeypatch.setattr(splits, "_SHARES", dict.fromkeys(splits._SHARES, share))
    packed: dict[str, Callable[[bytes], bytes]] = {
        ".lz4": lambda data: lz4.frame.compress(data, block_size=lz4.frame.BLOCKSIZE_MAX64KB),
    }
    path = tmp_path / f"a{suffix}"
    path.write_bytes(packed.get(suffix, CODECS[suffix])(long_content(form)))
    pieces, _ = survey(str(path), form, 10_000, LIMIT)
    assert len(pieces) > (1 if share else 4)
    assert {piece.start for piece in pieces} == {0}
    stops = [piece.stop for piece in pieces[:-1]]
    assert pieces[-1].stop is None
    for stop, after in pairwise(stops):
        assert stop is not None
        assert after is not None
        assert after - stop >= max(10_000, share * stop) - 1000
    found, count = in_pieces(path, form, 10_000)
    assert count == len(pieces)
    assert len(found) >= 4000
    assert found == whole(path, form)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_tables_are_split_between_their_groups(tmp_path: Path, form: str, suffix: str) -> None:
    table = pa.table({"text": [f"text {n}" for n in range(1000)]})
    data = io.BytesIO()
    if form == "parquet":
        pq.write_table(table, data, row_group_size=90)
    else:
        with pa.ipc.new_file(data, table.schema) as writer:
            writer.write_table(table, max_chunksize=90)
    path = tmp_path / f"a.{form}{suffix}"
    path.write_bytes(CODECS[suffix](data.getvalue()))
    assert sniff_format(str(path)) == form
    expected = [Record(n + 1, None, f"text {n}", None, None, None) for n in range(1000)]
    found, pieces = in_pieces(path, form, len(data.getvalue()) // 5)
    assert found == expected == whole(path, form)
    assert pieces > 3


@pytest.mark.parametrize("suffix", ["", ".zst"])
def test_a_zip_is_split_between_its_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.zip{suffix}"
    path.write_bytes(CODECS[suffix](CONTENTS["zip"]))
    found, pieces = in_pieces(path, "zip", 60)
    assert found == whole(path, "zip")
    assert len(found) > len(FILES)
    assert pieces > 3


def test_a_changed_piece_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(CONTENTS["jsonl"])
    pieces, _ = survey(str(path), "jsonl", 500, LIMIT)
    path.write_bytes(CONTENTS["jsonl"].replace(b"xxxx", b"xxxy", 1))
    digests = [open_piece(str(path), "jsonl", piece).checksum() for piece in pieces]
    changed = [n for n, piece in enumerate(pieces) if piece.checksum != digests[n]]
    assert changed == [0]
