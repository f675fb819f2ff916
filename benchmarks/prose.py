"""A complete refresh over real prose: wall time by stage, beside reading the same files alone.

`python -m benchmarks.prose DATA OUT` takes the JSON-lines files of DATA, builds OUT/store with
RoBERTa's vocabulary size and prints a table of seconds and MB/s per core (MB = 10^6 bytes of
decompressed JSON lines). The limit in the same run is one core that decompresses and parses. The
first stage includes the start of Ray. Not measured: several machines, object stores.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import orjson

from corpus.archives import InputFile
from corpus.recipe import Pack, Recipe, Source
from pipeline.refresh import refresh


def read_only(paths: list[str]) -> tuple[int, float]:
    """Decompress and parse every line; return bytes and seconds."""
    start, size = time.perf_counter(), 0
    for path in paths:
        data = b"".join(InputFile(path).chunks())
        size += len(data)
        for line in data.splitlines():
            orjson.loads(line)
    return size, time.perf_counter() - start


def main() -> int:
    """Run the refresh and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parsed = parser.parse_args()
    paths = sorted(map(str, parsed.data.glob("*.jsonl.*")))
    by_source: dict[str, list[str]] = {}
    for path in paths:
        by_source.setdefault(Path(path).name.split("-")[0], []).append(path)
    recipe = Recipe(
        store=str(parsed.out / "store"),
        snapshot="prose",
        sources=tuple(Source(name=name, paths=tuple(each)) for name, each in by_source.items()),
        pack=Pack(shard_size_bytes=16 * 2**20),
        workers=parsed.workers,
    )
    size, reading = read_only(paths)
    outcome = refresh(recipe)
    print(f"{size / 1e6:.1f} MB in {len(paths)} files, {parsed.workers} workers")
    print(f"{'stage':>12} {'s':>8} {'MB/s per core':>14} {'share of reading':>17}")
    print(f"{'reading':>12} {reading:8.1f} {size / 1e6 / reading:14.2f} {1:17.4f}")
    for stage, seconds in (outcome.stage_seconds | {"refresh": outcome.elapsed_seconds}).items():
        core_seconds = seconds * parsed.workers
        rate, share = size / 1e6 / core_seconds, reading / core_seconds
        print(f"{stage:>12} {seconds:8.1f} {rate:14.2f} {share:17.4f}")
    print(orjson.dumps(outcome.snapshot.counts.model_dump()).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
