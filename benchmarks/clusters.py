"""Time and memory of counting clusters of many duplicates, beside a dictionary of Python's.

    python -m benchmarks.clusters WORK --millions 20

Makes tables of duplicates whose survivors are drawn by a power law, 50,000 rows each, and counts
the clusters by `pipeline.clusters`, by the same without scratch files, and by
`collections.Counter`, each in a process of its own for the peak of its memory.
"""

import argparse
import multiprocessing
import resource
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.documents import DUPLICATE_SCHEMA
from corpus.snapshots import Tree
from pipeline import clusters
from pipeline.parquet import read_table

_ROWS, _EXPONENT, _FILES = 50_000, 1.1, 90_000
_COLUMNS = ("witness_id", "witness_snapshot", "witness_file", "witness_position")


def make(work: Path, tables: int) -> None:
    """Write so many tables of duplicates."""
    rng = np.random.default_rng(tables)
    (work / "duplicates").mkdir(parents=True)
    for number in range(tables):
        drawn = rng.pareto(_EXPONENT, _ROWS) * tables * 750
        survivors = (drawn.astype(np.int64) % (tables * 15_000)).tolist()
        columns = {
            "row": np.arange(_ROWS),
            "id": [f"web/{number}-{row}" for row in range(_ROWS)],
            "snapshot": ["2026-12"] * _ROWS,
            "file": [f"delivery-{number}.jsonl"] * _ROWS,
            "position": np.arange(_ROWS),
            "method": ["minhash"] * _ROWS,
            "similarity": np.ones(_ROWS),
            "witness_id": [f"web/{each:012d}" for each in survivors],
            "witness_snapshot": ["2026-11"] * _ROWS,
            "witness_file": [f"crawl-{each % _FILES:05d}.warc.gz" for each in survivors],
            "witness_position": np.array(survivors) // _FILES + 1,
        }
        path = work / "duplicates" / f"{number}.parquet"
        pq.write_table(pa.table(columns, schema=DUPLICATE_SCHEMA), path, compression="zstd")


def count(work: str, tables: int, how: str) -> None:
    """Count the clusters one way, and say what it took."""
    parts = [str(number) for number in range(tables)]
    tree = Tree(work)
    begun = time.perf_counter()
    if how == "Counter":
        sizes = Counter[tuple[object, ...]]()
        for part in parts:
            table = read_table(tree.find(f"duplicates/{part}.parquet"))
            sizes.update(zip(*(table[each].to_pylist() for each in _COLUMNS), strict=True))
        found = len(sizes)
    else:
        files = 1 if how == "in one" else clusters.files_for(tables * _ROWS)
        found = clusters.measure_sizes(clusters.count_parts(tree, parts, files)).clusters
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{how:>8}: {found:,} clusters in {seconds:.1f} s, peak {peak:.2f} GiB", flush=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path, help="a directory that is not there yet")
    parser.add_argument("--millions", type=int, default=20, help="of duplicates")
    given = parser.parse_args()
    tables = given.millions * 1_000_000 // _ROWS
    make(given.work, tables)
    processes = multiprocessing.get_context("spawn")
    for how in ("clusters", "in one", "Counter"):
        process = processes.Process(target=count, args=(str(given.work), tables, how))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
