"""Bins by hand, and counts of parts that add up to those of the whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_helpers import unhurried

from pipeline.distributions import add_counts, bins_of, count_bins


def test_shares_by_hand() -> None:
    values = np.array([0.0, 0.019, 0.02, 0.3, 0.999, 1.0, 7.5, np.nan])
    assert count_bins(values, 0.3) == {"0": 2, "1": 1, "15": 1, "49": 1, "50": 2}


def test_counts_by_hand() -> None:
    # 1 opens bin 1, the root of 2 bin 2, 2 bin 3, 4 bin 5, 50 = 2^5.64 bin 12.
    values = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.9, 4.0, 50.0, 1e30])
    assert count_bins(values, 50.0) == {
        "0": 2, "1": 1, "2": 1, "3": 1, "4": 1, "5": 1, "12": 1, "49": 1,
    }  # fmt: skip


@unhurried
@given(st.lists(st.floats(0, 1e9)), st.sampled_from([0.2, 1.0, 3.0, 1e5]), st.integers(0))
def test_parts_add_up(values: list[float], threshold: float, cut: int) -> None:
    cut %= len(values) + 1
    parts = [
        {"rule": count_bins(np.array(each, np.float64), threshold)}
        for each in (values[:cut], values[cut:])
    ]
    assert add_counts(parts) == {"rule": count_bins(np.array(values, np.float64), threshold)}
    for each in bins_of(parts[0]["rule"], threshold):
        assert each.low < each.high


@pytest.mark.parametrize(("threshold", "value"), [(0.3, 0.5), (50.0, 7.0)])
def test_a_picture_reaches_from_the_values_to_the_threshold(threshold: float, value: float) -> None:
    bins = bins_of(count_bins(np.array([value]), threshold), threshold)
    assert [each.high for each in bins[:-1]] == [each.low for each in bins[1:]]
    for place in (threshold, value):
        assert bins[0].low <= place < bins[-1].high
    (held,) = (each for each in bins if each.documents)
    assert held.low <= value < held.high
