"""Distributions of the statistics that rules look at, as counts in fixed bins.

Counts of parts add up to those of a corpus, so nothing is held a document. A share has bins of two
hundredths up to one, a percentage of two up to a hundred, a mean of halves up to 25; a count has
two bins for every power of two. The bins are the same for every corpus, so that two snapshots
compare.
"""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.pictures import Bin

LINEAR_BINS, COUNT_BINS = 51, 50
_LAST = LINEAR_BINS - 1  # and all beyond

Kind = Literal["share", "percent", "mean", "count"]
Counts = dict[str, int]  # by the bin's number

# Bins of one, by kind.
_IN_ONE = {"share": 50.0, "percent": 0.5, "mean": 2.0}


def number_bins(values: npt.NDArray[np.float64], kind: Kind) -> npt.NDArray[np.int64]:
    """Return the number of each value's bin."""
    if kind in _IN_ONE:
        # 0.02 has no exact float: fifty times the value puts an exact share into its own bin.
        return np.clip(np.floor(values * _IN_ONE[kind]), 0, _LAST).astype(np.int64)
    halves = np.floor(np.log2(np.maximum(values, 1)) * 2) + 1
    return np.where(values < 1, 0, np.minimum(halves, COUNT_BINS - 1)).astype(np.int64)


def count_bins(values: npt.NDArray[np.float64], kind: Kind) -> Counts:
    """Count values by bin; what is not a number was not looked at and is not counted."""
    return describe_bins(np.bincount(number_bins(values[~np.isnan(values)], kind)))


def describe_bins(counts: npt.NDArray[np.int64]) -> Counts:
    """Return counts by bin where there are any."""
    return {str(number): int(counts[number]) for number in np.flatnonzero(counts)}


def add_counts(all_counts: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    """Add the counts of several parts, rule by rule."""
    added: dict[str, Counts] = {}
    for counts in all_counts:
        for rule, found in counts.items():
            bins = added.setdefault(rule, {})
            for number, count in found.items():
                bins[number] = bins.get(number, 0) + count
    return {rule: _in_order(bins) for rule, bins in sorted(added.items())}


def _in_order(bins: Counts) -> Counts:
    return {number: bins[number] for number in sorted(bins, key=int)}


def bins_of(counts: Counts, kind: Kind, threshold: float | None) -> list[Bin]:
    """Return the bins from the first to the last that holds something or the threshold."""
    marked = [] if threshold is None else number_bins(np.array([threshold]), kind).tolist()
    held = [*map(int, counts), *marked] or [0]
    found = [
        Bin(*_edges(number, kind), counts.get(str(number), 0))
        for number in range(min(held), max(held) + 1)
    ]
    return [each for each in found if each.low < each.high]


def _edges(number: int, kind: Kind) -> tuple[float, float]:
    if kind in _IN_ONE:
        return number / _IN_ONE[kind], (number + 1) / _IN_ONE[kind]
    # Of counts, from the first that is in the bin: none lies between the root of 2 and 2.
    return (ceil(2 ** ((number - 1) / 2)) if number else 0), ceil(2 ** (number / 2))
