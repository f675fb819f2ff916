"""Peak memory of a task that cleans a file, and what language identification adds to it.

`python -m benchmarks.memory [--mb N] FILE...` cuts the texts of JSON-lines files into documents of
a web page's size, repeats them to N megabytes in one `.jsonl.zst` and cleans that as a task does,
with all four sets of rules, documents and drops written: in a process of its own each time, once
without and once with the language. It prints the resident memory after the imports and the peak
(Linux's VmRSS and VmHWM), and for languages alone what the library's tables take once used.

`python -m benchmarks.memory record en|zh|page|tags [--mb N]` fills a part with documents of 5 KB
and cleans one record of N MiB behind them: random English or Chinese words, words in the paragraphs
of a page, or a page with as many tags as it may have.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import half
from benchmarks.resident import resident
from benchmarks.signatures import documents
from corpus.recipe import Clean
from corpus.records import Record
from pipeline import html
from pipeline.chain import Chain
from pipeline.clean import PART_BYTES, Cleaner, Origin
from pipeline.cuts import of_file
from pipeline.languages import identify_batch
from pipeline.parquet import write_table
from pipeline.settled import Lists

_TEXTS = ["All human beings are born free and equal in dignity and rights. " * 10] * 100


def clean(path: Path, out: Path, identify: bool) -> None:
    """Clean a file and print memory before and at most."""
    before = resident("VmRSS")
    half.clean_only(path, out, identify=identify)
    print(f"  imported {before:.0f} MiB, peak {resident('VmHWM'):.0f} MiB", flush=True)


def languages() -> None:
    """Print by how much the library's tables grow this process, kernels loaded before."""
    identify_batch([""])
    before = resident("VmRSS")
    identify_batch(_TEXTS)
    print(f"  languages alone: +{resident('VmRSS') - before:.1f} MiB", flush=True)


def words(size: int, chinese: bool = False) -> str:
    """Return about so many bytes of random words in sentences, a sentence a line."""
    rng = np.random.default_rng(0)
    if chinese:
        signs = rng.integers(0x4E00, 0x5800, size // 3 - 20, dtype=np.uint32)
        signs[::40], signs[1::40] = 0x3002, 0x0A
        return signs.tobytes().decode("utf-32-le")
    letters = rng.integers(97, 123, (size // 8, 8), dtype=np.uint8)
    letters[:, 7] = 32
    letters[::15, 6:] = (46, 10)
    letters[:, 3] = np.where(rng.random(size // 8) < 0.3, 32, letters[:, 3])
    return letters.tobytes().decode()


def large_record(kind: str, size: int) -> Record:
    """Return a record of about so many bytes."""
    if kind in ("en", "zh"):
        return Record(1, "large", words(size, kind == "zh"), None, None, None)
    if kind == "page":
        body = "".join(f"<p>{line}</p>" for line in words(int(size * 0.93)).split("\n"))
    else:
        tags = html._MAX_NODES - 8
        body = "<p>a" * tags + f"<p>{words(size - 4 * tags)}"
    page = f"<html><body>{body}".encode()
    return Record(1, "large", "", None, None, None, "html", page, "utf-8")


def one_record(kind: str, size: int) -> None:
    """Clean a full part of small documents and a large one, and print the peak."""
    text = words(5000)

    def records() -> Iterator[Record]:
        for number in range(PART_BYTES // 6300):
            yield Record(number + 1, str(number), f"{number} {text}", None, None, None)
        yield large_record(kind, size)._replace(position=PART_BYTES)

    off = {"gopher_max_words": None, "gopher_stop_words": None}
    rules = ("gopher_repetition", "gopher_quality", "c4", "fineweb")
    chain = Chain(Clean(rules=rules, thresholds=off), Lists())
    for part in Cleaner(Origin("a", "s"), chain).parts(of_file("f", records())):
        with tempfile.TemporaryDirectory() as folder:
            write_table(f"{folder}/clean.parquet", part.documents())
            write_table(f"{folder}/dropped.parquet", part.dropped())
        print(f"{part.text_bytes / 2**20:.0f} MiB kept, {len(part.drops)} dropped", flush=True)
    print(f"{kind}: a record of {size / 2**20:.0f} MiB, peak {resident('VmHWM'):.0f} MiB")


def main() -> None:
    """Write the file and measure in processes of their own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--mb", type=float, default=120, help="10^6 bytes of text, of a record MiB")
    parsed = parser.parse_args()
    if parsed.files[0] == "languages":
        languages()
        return
    if parsed.files[0] == "record":
        one_record(parsed.files[1], int(parsed.mb * 2**20))
        return
    if parsed.files[0] in ("with", "without"):
        kind, path, out = parsed.files
        clean(Path(path), Path(out), kind == "with")
        return
    texts = list(documents(parsed.files, int(parsed.mb * 1e6)))
    size = sum(len(text.encode()) for text in texts)
    texts *= max(1, round(parsed.mb * 1e6 / size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl.zst"
        size = half.write_raw(path, list(enumerate(texts)))
        for kind in ("without", "with"):
            print(f"{size / 1e6:.0f} MB, {kind} language identification:", flush=True)
            out = Path(folder) / kind
            run(kind, str(path), str(out))
    run("languages")


def run(*arguments: str) -> None:
    """Run this module in a process of its own."""
    subprocess.run([sys.executable, "-m", "benchmarks.memory", *arguments], check=True)


if __name__ == "__main__":
    main()
