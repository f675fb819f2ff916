"""How fast every format is read, beside gzip, json and tarfile of the standard library.

    python -m benchmarks.reading [MEGABYTES]

Prose is made of a seeded random vocabulary; MB/s counts decompressed bytes, one process.
"""

import bz2
import gzip
import io
import json
import lzma
import random
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import lz4.frame
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from benchmarks.fuzz import _warc_record, tar_of
from corpus.archives import InputFile
from corpus.formats import SEEKING
from corpus.readers import read_records

DOCUMENT_WORDS = 400


def make_texts(size_bytes: int) -> list[str]:
    """Return documents of random words of about so many bytes in all."""
    rng = random.Random(1)
    letters = "etaoinshrdlucmfw"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]
    count = max(1, size_bytes // (DOCUMENT_WORDS * 6))
    return [" ".join(rng.choices(words, k=DOCUMENT_WORDS)) for _ in range(count)]


def make_files(texts: list[str]) -> Iterator[tuple[str, str, bytes, Callable[[bytes], bytes]]]:
    """Give the name, format, content and compression of every file to read."""
    lines = b"".join(
        orjson.dumps({"id": n, "text": text, "url": f"http://e.com/{n}"}) + b"\n"
        for n, text in enumerate(texts)
    )
    yield "a.jsonl", "jsonl", lines, bytes
    yield "a.jsonl.gz", "jsonl", lines, gzip.compress
    yield "a.jsonl.zst", "jsonl", lines, zstandard.ZstdCompressor(level=3).compress
    yield "a.jsonl.lz4", "jsonl", lines, lz4.frame.compress
    yield "a.jsonl.bz2", "jsonl", lines[: len(lines) // 8], bz2.compress
    yield (
        "a.jsonl.xz",
        "jsonl",
        lines[: len(lines) // 8],
        lambda data: lzma.compress(data, preset=1),
    )
    rows = b"id,text\n" + b"".join(b'%d,"%s"\n' % (n, t.encode()) for n, t in enumerate(texts))
    yield "a.csv", "csv", rows, bytes
    yield "a.tsv", "tsv", rows.replace(b",", b"\t"), bytes
    yield "a.paragraphs.txt", "paragraphs", "\n\n".join(texts).encode(), bytes
    table = pa.table({"id": list(range(len(texts))), "text": texts})
    target = io.BytesIO()
    pq.write_table(table, target, compression="zstd", row_group_size=1024)
    yield "a.parquet", "parquet", target.getvalue(), bytes
    target = io.BytesIO()
    with pa.ipc.new_file(target, table.schema) as writer:
        writer.write_table(table, max_chunksize=1024)
    yield "a.arrow", "arrow", target.getvalue(), bytes
    records = [_warc_record(b"conversion", b"text/plain", text.encode()) for text in texts]
    yield "a.wet.gz", "warc", b"".join(records), lambda _: b"".join(map(gzip.compress, records))
    pages = b"".join(
        b"<page><ns>0</ns><id>%d</id><revision><text>%s</text></revision></page>\n"
        % (n, text.encode())
        for n, text in enumerate(texts)
    )
    yield "a.xml", "wikipedia", b"<mediawiki>" + pages + b"</mediawiki>", bytes
    archive = tar_of({f"{n}.txt": text.encode() for n, text in enumerate(texts)})
    yield "a.tar", "tar", archive, bytes
    yield "a.tar.gz", "tar", archive, gzip.compress
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as members:
        for n, text in enumerate(texts):
            members.writestr(f"{n}.txt", text)
    yield "a.zip", "zip", target.getvalue(), bytes


def timed(work: Callable[[], int], size: int) -> tuple[float, int]:
    """Return the best of three rates in MB/s, and the count of records."""
    best, count = 0.0, 0
    for _ in range(3):
        start = time.perf_counter()
        count = work()
        best = max(best, size / (time.perf_counter() - start) / 1e6)
    return best, count


def read(path: Path, form: str) -> int:
    """Read a file; return its records."""
    file = InputFile(str(path))
    count = sum(1 for _ in read_records(file, form, 2**26))
    file.close()
    return count


def read_plainly(path: Path) -> int:
    """Read JSON lines as the standard library does."""
    with gzip.open(path) as stream:
        return sum(1 for line in stream if json.loads(line)["text"])


def read_plain_tar(path: Path) -> int:
    """Read the files of a tar as the standard library does."""
    with tarfile.open(path, "r|*") as archive:
        files = (archive.extractfile(member) for member in archive)
        return sum(1 for file in files if file is not None and file.read().decode())


def main(megabytes: int) -> None:
    """Print a line a format."""
    texts = make_texts(megabytes * 10**6)
    size = sum(map(len, texts))
    with tempfile.TemporaryDirectory() as directory:
        for name, form, data, pack in make_files(texts):
            path = Path(directory) / name
            path.write_bytes(pack(data))
            # What a table or an archive of members weighs is its text.
            rate, count = timed(
                lambda path=path, form=form: read(path, form),  # type: ignore[misc]
                size if form in SEEKING else len(data),
            )
            print(f"{name:18} {rate:7.0f} MB/s  {count:,} records", flush=True)
            if name == "a.jsonl.gz":
                rate, _ = timed(lambda path=path: read_plainly(path), len(data))  # type: ignore[misc]
                print(f"{'gzip + json':18} {rate:7.0f} MB/s  standard library", flush=True)
            if form == "tar":
                rate, _ = timed(lambda path=path: read_plain_tar(path), len(data))  # type: ignore[misc]
                print(f"{'tarfile':18} {rate:7.0f} MB/s  standard library", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100)
