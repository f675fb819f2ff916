"""How long the pieces of one long compressed file take, beside the file read by one task.

    python -m benchmarks.pieces WORK --gb 1

Makes JSON lines of random words, in one member of each codec, and reads them whole and in pieces,
one process. What is compared: the longest piece, which others need not wait for, with the whole
file; and all pieces together with it, as what stands before a piece is decompressed again. Beside
stands the same with cleaning, at so many MB/s as `--clean` says (benchmarks.prose).
"""

import argparse
import bz2
import gzip
import lzma
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import lz4.frame
import zstandard

from benchmarks.reading import make_texts
from corpus.archives import InputFile
from corpus.readers import read_records
from corpus.splits import open_piece, read_piece, survey
from pipeline.cuts import PIECE_BYTES

_LIMIT = 2**25
_CODECS: dict[str, Callable[[Path], Any]] = {
    ".gz": partial(gzip.open, mode="wb", compresslevel=6),
    ".zst": partial(zstandard.open, mode="wb"),
    ".lz4": partial(lz4.frame.open, mode="wb"),
    ".xz": partial(lzma.open, mode="wb", preset=1),
    ".bz2": partial(bz2.open, mode="wb"),
}


def write(path: Path, size_bytes: int) -> int:
    """Write so many bytes of JSON lines as one member; return how many there are."""
    given = 0
    with _CODECS[path.suffix](path) as stream:
        while given < size_bytes:
            for text in make_texts(10_000_000):
                line = b'{"id": "%d", "text": "%s"}\n' % (given, text.encode())
                stream.write(line)
                given += len(line)
    return given


def measure(path: Path, piece_bytes: int, given: int, cleans: float) -> str:
    """Read a file whole and in pieces; say how long each takes."""
    begun = time.perf_counter()
    with closing(InputFile(str(path))) as file:
        records = sum(1 for _ in read_records(file, "jsonl", _LIMIT))
    whole = time.perf_counter() - begun
    begun = time.perf_counter()
    pieces, _ = survey(str(path), "jsonl", piece_bytes, _LIMIT)
    surveyed = time.perf_counter() - begun
    reading, cleaning = [], []
    for piece in pieces:
        begun = time.perf_counter()
        with closing(open_piece(str(path), "jsonl", piece)) as file:
            records -= sum(1 for _ in read_piece(file, "jsonl", piece, _LIMIT))
            assert file.checksum() == piece.checksum
        reading.append(time.perf_counter() - begun)
        length = given - piece.skip if piece.length is None else piece.length
        cleaning.append(length / 1e6 / cleans)
    assert records == 0
    both = [sum(each) for each in zip(reading, cleaning, strict=True)]
    one = whole + sum(cleaning)
    return (
        f"{path.name}: {path.stat().st_size / 1e6:,.0f} MB, read whole {whole:.1f} s, survey "
        f"{surveyed:.1f} s, {len(pieces)} pieces: longest {max(reading):.1f}, all "
        f"{sum(reading):.1f} s; cleaned at {cleans:g} MB/s {one:.0f} s, longest {max(both):.0f} "
        f"({max(both) / one:.2f}), all {sum(both) / one:.2f} times"
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path, help="directory for a file of each codec")
    parser.add_argument("--gb", type=float, default=1.0, help="of decompressed text")
    parser.add_argument("--piece-mb", type=float, default=PIECE_BYTES / 1e6, help="raw")
    parser.add_argument("--clean", type=float, default=10.0, help="MB/s")
    parser.add_argument("--codecs", nargs="+", default=list(_CODECS), choices=list(_CODECS))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    for suffix in given.codecs:
        path = given.work / f"a.jsonl{suffix}"
        written = write(path, int(given.gb * 1e9))
        print(measure(path, int(given.piece_mb * 1e6), written, given.clean), flush=True)
        path.unlink()


if __name__ == "__main__":
    main()
