"""Many small raw files: a refresh that joins them beside one with a task for each.

`python -m benchmarks.small_files OUT DATA/prose/govweb-en.jsonl.zst ... --files 3000` writes pieces
of 3,000 characters of the given JSON lines as files of their own and refreshes a store from them
twice, each time with a Ray of its own: small files joined, as always, and each by itself. Seconds,
tasks and files of the store; the fingerprints have to be equal. The limit beside them is the same
text in one file of JSON lines, whose ids differ.
"""

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import orjson

from corpus.archives import InputFile
from corpus.readers import read_records
from corpus.recipe import Recipe, Source, Tokenizer
from corpus.records import Record
from pipeline import cuts
from pipeline.outcome import Outcome
from pipeline.refresh import refresh

_CHARACTERS, _RECORD_BYTES = 3000, 2**25


def texts_of(paths: Iterable[str]) -> Iterator[str]:
    """Give the texts of JSON lines."""
    for path in paths:
        with closing(InputFile(path)) as file:
            records = read_records(file, "jsonl", _RECORD_BYTES)
            yield from (each.text for each in records if isinstance(each, Record))


def write_files(folder: Path, given: list[str], count: int) -> None:
    """Write so many files, the beginnings of texts, and of their next parts as long as needed."""
    texts = list(texts_of(given))
    pieces = (
        text[turn * _CHARACTERS : (turn + 1) * _CHARACTERS]
        for turn in range(max(map(len, texts)) // _CHARACTERS + 1)
        for text in texts
    )
    chosen = list(islice((each for each in pieces if each.strip()), count))
    for number, piece in enumerate(chosen):
        target = folder / "small" / f"{number // 1000:04d}" / f"{number:07d}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(piece)
    (folder / "one.jsonl").write_bytes(b"".join(orjson.dumps({"text": t}) + b"\n" for t in chosen))
    size = sum(len(each.encode()) for each in chosen)
    print(f"{len(chosen)} files, {size / 10**6:.1f} MB")


def timed(given: Path, store: Path, workers: int) -> Outcome:
    """Refresh an empty store from a path and print what it took."""
    source = Source(name="small", paths=(str(given),))
    recipe = Recipe(
        store=str(store), snapshot="first", sources=(source,), workers=workers,
        tokenizer=Tokenizer(vocab_size=5000),
    )  # fmt: skip
    start = time.perf_counter()
    made = refresh(recipe)
    seconds = time.perf_counter() - start
    files = sum(path.is_file() for path in store.rglob("*"))
    stages = ", ".join(
        f"{name} {took:.1f}" for name, took in made.stage_seconds.items() if took > 1
    )
    print(f"{store.name}: {seconds:.1f} s ({stages}), {made.tasks_run} tasks, {files} files")
    print(f"  {made.snapshot.counts.documents_kept} documents, {made.snapshot.fingerprint}")
    return made


def main() -> None:
    """Write the files, refresh twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("texts", nargs="+", help="JSON lines, compressed or not")
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--joined-only", action="store_true")
    given = parser.parse_args()
    raw = given.out / "raw"
    write_files(raw, given.texts, given.files)
    timed(raw / "one.jsonl", given.out / "one", given.workers)
    joined = timed(raw / "small", given.out / "joined", given.workers)
    if not given.joined_only:
        cuts.JOINED_BYTES = 0
        single = timed(raw / "small", given.out / "single", given.workers)
        assert single.snapshot.fingerprint == joined.snapshot.fingerprint


if __name__ == "__main__":
    main()
