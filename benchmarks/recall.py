"""Recall of near-duplicates over 100,000 generated pairs, beside what bands and rows promise.

`python -m benchmarks.recall` makes pairs of similarity 0.75 to 0.85 (the canaries of
`pipeline/canaries.py`, longer ones: 400 to 600 shingles), signs them, searches them for candidates
and prints one line a bin of 0.01 with its 99 % interval. The limit in the same run is the curve
1 - (1 - s^rows)^bands. Exit status 1 where more bins lie outside the interval than chance allows at
1e-6, or one lies further out than 1e-6 / bins. Not measured: verification, the index on disk.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np

from corpus.recipe import Dedup
from pipeline.canaries import (
    WARN_CHANCE,
    Bin,
    count_distribution,
    describe,
    measure,
)

BINS = tuple((low, low + 1) for low in range(75, 85))
FAIL_CHANCE = 1e-6


def is_beyond_chance(bins: Sequence[Bin]) -> bool:
    """Tell whether too many bins lie outside, or one of them too far."""
    outside = sum(each.chance <= WARN_CHANCE for each in bins)
    # Counts are whole, so a bin lies outside with at most this chance.
    counts = count_distribution(np.full(len(bins), WARN_CHANCE))
    too_many = outside > 0 and float(counts[outside:].sum()) < FAIL_CHANCE
    return too_many or min(each.chance for each in bins) < FAIL_CHANCE / len(bins)


def main() -> int:
    """Measure and print; exit status 1 where theory and measurement disagree beyond chance."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Dedup()
    parser.add_argument("--bands", type=int, default=default.bands)
    parser.add_argument("--rows", type=int, default=default.rows)
    parser.add_argument("--ngram", type=int, default=default.ngram)
    parser.add_argument("--pairs", type=int, default=10_000, help="of each bin")
    parsed = parser.parse_args()
    config = Dedup(bands=parsed.bands, rows=parsed.rows, ngram=parsed.ngram)
    start = time.perf_counter()
    bins = measure(config, bins=BINS, pairs_per_bin=parsed.pairs)
    seconds = time.perf_counter() - start
    for each in bins:
        print(f"{describe(each)}, curve at the middle {100 * each.curve:.1f} %")
    outside = sum(each.chance <= WARN_CHANCE for each in bins)
    pairs, found = sum(each.pairs for each in bins), sum(each.found for each in bins)
    expected = sum(each.expected for each in bins)
    print(f"{config.bands} bands of {config.rows} rows, {config.ngram} words a shingle:", end=" ")
    print(f"{found:,} of {pairs:,} found, expected {expected:,.1f};", end=" ")
    print(f"{outside} of {len(bins)} bins outside; {seconds:.0f} s")
    return int(is_beyond_chance(bins))


if __name__ == "__main__":
    sys.exit(main())
