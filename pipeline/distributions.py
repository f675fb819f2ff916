"""Distributions of the statistics that rules look at, as counts in fixed bins.

Counts of parts add up to those of a corpus, so nothing is held a document. A share has bins of two
hundredths up to one; a count has two bins for every power of two. The bins are the same for every
corpus, so that two snapshots compare.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from pipeline.pictures import Bin

SHARE_BINS, COUNT_BINS = 51, 50
_LAST_SHARE = SHARE_BINS - 1  # from one up

Counts = dict[str, int]  # by the bin's number


def is_share(threshold: float) -> bool:
    """Tell a rule that looks at a share from one that looks at a count, by what it asks for."""
    return threshold <= 1


def count_bins(values: npt.NDArray[np.float64], threshold: float) -> Counts:
    """Count values by bin; what is not a number was not looked at and is not counted."""
    values = values[~np.isnan(values)]
    if is_share(threshold):
        # 0.02 has no exact float: fifty times the value puts an exact share into its own bin.
        bins = np.clip(np.floor(values * 50), 0, _LAST_SHARE)
    else:
        halves = np.floor(np.log2(np.maximum(values, 1)) * 2) + 1
        bins = np.where(values < 1, 0, np.minimum(halves, COUNT_BINS - 1))
    numbers, counts = np.unique(bins.astype(np.int64), return_counts=True)
    return {str(number): int(count) for number, count in zip(numbers, counts, strict=True)}


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


def bins_of(counts: Counts, threshold: float) -> list[Bin]:
    """Return the bins from the first to the last that holds something or the threshold."""
    held = [int(number) for number in (*counts, *count_bins(np.array([threshold]), threshold))]
    return [
        Bin(*_edges(number, threshold), counts.get(str(number), 0))
        for number in range(min(held), max(held) + 1)
    ]


def _edges(number: int, threshold: float) -> tuple[float, float]:
    if is_share(threshold):
        return number / 50, (number + 1) / 50
    return (2 ** ((number - 1) / 2) if number else 0.0), 2 ** (number / 2)
