"""Mutated inputs of every format and compression through every reader, in one process.

Records go on to their text, through the parsers of pages and of wikitext.

    python -m benchmarks.fuzz [INPUTS] [SEED]

Each input is a small valid file with one to eight mutations: bytes flipped, ranges cut, doubled,
swapped or overwritten, numbers made large, words of some format put in; before or after it is
compressed. It must not crash, must end within five CPU seconds, positions must rise, and no record
may be missing (benchmarks/fuzz_counts.py).
Coverage-guided mutation of the same readers: benchmarks/fuzz_guided.py.
"""

import bz2
import gzip
import io
import lzma
import random
import resource
import signal
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from benchmarks.fuzz_counts import check_counts
from corpus import archives, tables
from corpus.archives import InputFile
from corpus.readers import read_records
from corpus.records import Damage, Record
from pipeline.chain import text_of

HANG_SECONDS = 5
MAX_RECORD_BYTES = 2**16
WORDS = (
    *(b"\n", b"\r\n\r\n", b'"', b",", b"\t", b"\x00", b"\xff", b"{", b"}", b"[" * 50, b"<page>"),
    *(b"</page>", b"<!DOCTYPE x [<!ENTITY a 'b'>]>", b"<text>", b"WARC/1.0\r\n", b"chunked"),
    *(b"Content-Length: 99999999999\r\n", b"Content-Encoding: gzip\r\n", b"ffffffff\r\n"),
    *(b"HTTP/1.1 200 OK\r\n", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f"),
    *(b"-1", b"1e999", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"Transfer-Encoding: chunked\r\n"),
)
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, 1),
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".lz4": lz4.frame.compress,
}


def seeds() -> dict[str, bytes]:
    """Return a small valid file of every format."""
    table = pa.table({"text": ["one", "two", None], "id": [1, 2, 3], "more": [[1], [], [2, 3]]})
    parquet, arrow, stream = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=2)
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    text = b"A line.\n\nAnother paragraph \xc3\xa9.\nMore.\n"
    return {
        "jsonl": b'{"text": "one", "id": 1}\n{"text": "tw\\u00f6", "url": "http://u", "a": [1]}\n',
        "csv": b'id,text\n1,"one, two"\n2,"a ""b""\nc"\n3,plain\n',
        "tsv": b"id\ttext\n1\tone\n2\ttwo words\n",
        "text": text,
        "paragraphs": text,
        "html": b"<!doctype html><html><body><p>Hello</p></body></html>",
        "parquet": parquet.getvalue(),
        "arrow": arrow.getvalue(),
        "arrow-stream": stream.getvalue(),
        "warc": warc_seed(),
        "wikipedia": wikipedia_seed(),
        "tar": tar_seed(tarfile.GNU_FORMAT),
        "tar-pax": tar_seed(tarfile.PAX_FORMAT),
        "zip": zip_seed(),
        "warc-arc": b"filedesc://x 0.0.0.0 20140216050221 text/plain 8\n1 0 Live\n\n"
        b"http://e.com/ 1.2.3.4 20140216050221 text/html 37\n"
        b"HTTP/1.1 200 OK\r\n\r\n<html>hello</html>\n",
    }


def files_seed() -> dict[str, bytes]:
    """Return the files of an archive: of one record and of two, compressed, and of no format."""
    return {
        "a.txt": b"A text.",
        "b/" + "long" * 30 + ".jsonl": b'{"text": "one"}\n{"text": "two"}\n',
        "c.txt.gz": gzip.compress(b"Another text.", mtime=0),
        "d.png": b"\x89PNG",
    }


def tar_seed(form: int) -> bytes:
    """Return a tar with a tar in it."""
    return tar_of(files_seed() | {"e.tar": tar_of(files_seed(), form)}, form)


def tar_of(files: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar of files."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    made = data.getvalue().rstrip(b"\0")
    return made + bytes(-len(made) % 512 + 1024)  # two blocks end it; the padding of tapes is left


def zip_seed() -> bytes:
    """Return a zip with a tar in it, its files packed in two ways."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in (files_seed() | {"e.tar": tar_of(files_seed())}).items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED * (name > "b"))
    return data.getvalue()


def warc_seed() -> bytes:
    """Return a WARC with every kind of content coding."""
    page = b"<html><p>Hello</p></html>"
    chunked = b"a\r\n" + page[:10] + b"\r\nf\r\n" + page[10:] + b"\r\n0\r\n\r\n"
    bodies = (
        (b"Content-Encoding: gzip", gzip.compress(page)),
        (b"Transfer-Encoding: chunked", chunked),
        (b"Content-Encoding: br", b"\x0b\x02\x80hello\x03"),
        (b"X: y", page),
    )
    records = [_warc_record(b"warcinfo", b"application/warc-fields", b"software: x\r\n")]
    for header, body in bodies:
        block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n" + header
        records.append(_warc_record(b"response", b"application/http", block + b"\r\n\r\n" + body))
    records.append(_warc_record(b"conversion", b"text/plain", b"Some text."))
    return b"".join(records)


def _warc_record(kind: bytes, mime: bytes, block: bytes) -> bytes:
    head = b"WARC/1.0\r\nWARC-Type: %s\r\nWARC-Target-URI: http://e.com/\r\n" % kind
    return head + b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (
        *(mime, len(block), block),
    )


def wikipedia_seed() -> bytes:
    """Return a dump with an article, a redirect and a talk page."""
    pages = (
        b"<page><title>A</title><ns>0</ns><id>1</id><revision><id>2</id>"
        b"<text>'''A''' &amp; [[b]]</text></revision></page>\n",
        b'<page><title>B</title><ns>0</ns><id>2</id><redirect title="A" /></page>\n',
        b"<page><title>Talk:A</title><ns>1</ns><id>3</id></page>\n",
    )
    return b'<mediawiki xmlns="http://x">\n' + b"".join(pages) + b"</mediawiki>\n"


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a file in one to eight places."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(made) + 1)
        stop = min(len(made), at + rng.choice((1, 2, 4, 16, 64)))
        kind = rng.randrange(7)
        if kind == 0 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del made[at:stop]
        elif kind == 2:
            made[at:at] = made[at:stop] * rng.choice((1, 2, 50))
        elif kind == 3:
            made[at:at] = rng.choice(WORDS)
        elif kind == 4:
            made[at:stop] = rng.randbytes(stop - at)
        elif kind == 5:
            made[at:stop] = b"\xff" * (stop - at)
        elif rng.random() < 0.3:
            del made[at:]
    return bytes(made)


def check(name: str, form: str, data: bytes) -> tuple[int, int]:
    """Read a file, pages and wikitext to their text; return how many records and drops it gave.

    Their positions must rise, and they must be all that there are.
    """
    found: list[Record | Damage] = []
    position = 0
    signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
    with (
        mock.patch.object(archives, "open_reader", lambda _: io.BytesIO(data)),
        mock.patch.object(tables, "open_reader", lambda _: io.BytesIO(data)),
    ):
        for each in read_records(InputFile(name), form, MAX_RECORD_BYTES):
            if isinstance(each, Record):
                text_of(each)
            if each.position <= position:
                raise ValueError(f"position {each.position} after {position}")
            position = each.position
            found.append(each)
        signal.setitimer(signal.ITIMER_PROF, 0)
        plain, is_whole = decompressed(name)
    check_counts(form, plain, is_whole, found, MAX_RECORD_BYTES)
    records = sum(isinstance(each, Record) for each in found)
    return records, len(found) - records


def decompressed(name: str) -> tuple[bytes, bool]:
    """Return what an archive gives, and whether that is all of it."""
    parts: list[bytes] = []
    try:
        parts.extend(InputFile(name).chunks())
    except (archives.CorruptArchiveError, archives.DecompressionBombError):
        return b"".join(parts), False
    return b"".join(parts), True


def run(inputs: int, seed: int) -> int:
    """Read mutated inputs; print rate and crashes; return how many crashed."""
    rng = random.Random(seed)
    made = seeds()
    valid = [(form, suffix) for form in made for suffix in CODECS]
    packed = {(form, suffix): CODECS[suffix](made[form]) for form, suffix in valid}
    totals = {"records": 0, "drops": 0, "crashes": 0}
    start = time.monotonic()
    for number in range(inputs):
        form, suffix = valid[number % len(valid)]
        # Compressing costs more than reading with bzip2 and xz: their insides change less often.
        inside = not suffix or rng.random() < (0.05 if suffix in (".bz2", ".xz") else 0.5)
        if inside:
            data = CODECS[suffix](mutate(made[form], rng))
        else:
            data = mutate(packed[form, suffix], rng)
        try:
            records, drops = check(f"x{suffix}", form.split("-")[0], data)
        except Exception as error:  # noqa: BLE001 - a crash is what is looked for
            totals["crashes"] += 1
            print(f"CRASH {form}{suffix} {error!r} {data!r}", flush=True)
            continue
        totals["records"] += records
        totals["drops"] += drops
        if (number + 1) % 50_000 == 0:
            report(number + 1, totals, time.monotonic() - start)
    report(inputs, totals, time.monotonic() - start)
    return totals["crashes"]


def report(inputs: int, totals: dict[str, int], seconds: float) -> None:
    """Print what was read so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{inputs:,} inputs, {totals['records']:,} records, {totals['drops']:,} drops, "
        f"{totals['crashes']} crashes, {inputs / seconds:,.0f} inputs/s, peak {peak} MB",
        flush=True,
    )


def raise_hang(*_: Any) -> None:  # noqa: ANN401 - a signal's arguments
    """Answer the alarm."""
    raise TimeoutError(f"over {HANG_SECONDS} s of CPU")


def prepare() -> None:
    """Compile, answer the alarm in this process, and take small bombs and tables for large."""
    text_of(Record(1, None, "", None, None, None, "html", b"<p>"))  # compiles, for some seconds
    signal.signal(signal.SIGPROF, raise_hang)
    archives.BOMB_BYTES = 2**24
    tables._HELD_BYTES = 2**8  # small tables are read as large ones are


if __name__ == "__main__":
    prepare()
    given = [int(each) for each in sys.argv[1:]]
    sys.exit(run(*(given + [1_000_000, 1][len(given) :])) > 0)
