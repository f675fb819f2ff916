"""Intervals and verdicts: by hand, and on simulated runs whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pretrain.evaluation.verdicts import Interval, judge, mean_interval, paired_gain


def test_an_interval_by_hand() -> None:
    # Mean 2, deviation 1, three values: 2 -+ 4.302653 / sqrt(3) (Student's table, 2 degrees).
    found = mean_interval([1.0, 2.0, 3.0], 0.95)
    assert found.mean == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2.0 - found.low == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=8).filter(lambda v: np.ptp(v) > 1e-3),
    st.floats(0.5, 0.999),
)
def test_an_interval_equals_that_of_scipy(values: list[float], confidence: float) -> None:
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    found = mean_interval(values, confidence)
    assert found.low == pytest.approx(float(expected.low), rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(float(expected.high), rel=1e-6, abs=1e-6)


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="two values or more, found 1"):
        mean_interval([1.0], 0.95)


def test_runs_without_a_score_leave_it_undecided() -> None:
    # Another seed diverged in each setting: one gain is minus, one plus infinity.
    gain = paired_gain([-math.inf, 1.0, 1.0], [0.0, -math.inf, 0.0], 0.95)
    assert all(map(math.isnan, gain))
    assert judge(gain) == "undecided"
    assert judge(paired_gain([1.0, 1.0, 1.0], [0.0, 0.0, -math.inf], 0.95)) == "undecided"


def test_verdicts_by_hand() -> None:
    assert judge(Interval(1.0, 0.1, 1.9)) == "agrees"
    assert judge(Interval(-1.0, -1.9, -0.1)) == "disagrees"
    assert judge(Interval(0.1, -0.1, 0.3)) == "undecided"
    assert judge(Interval(0.0, 0.0, 0.0)) == "undecided"


def test_pairing_takes_the_common_chance_out() -> None:
    # Seeds differ by far more than the settings do; every seed gains the same.
    worse = [1.0, 5.0, 9.0]
    better = [value + gain for value, gain in zip(worse, (0.10, 0.11, 0.12), strict=True)]
    assert judge(paired_gain(better, worse, 0.95)) == "agrees"
    assert judge(paired_gain(worse, better, 0.95)) == "disagrees"
    assert judge(paired_gain(better, worse[::-1], 0.95)) == "undecided"


def simulate(gain: float, seeds: int, trials: int = 4000) -> dict[str, float]:
    """Share of verdicts over many ablations; seeds share a chance of 1, each run has one of 0.1."""
    draw = np.random.default_rng(seeds)
    counts = dict.fromkeys(("agrees", "disagrees", "undecided"), 0)
    for _ in range(trials):
        common = draw.normal(0, 1, seeds)
        worse, better = (common + draw.normal(0, 0.1, seeds) for _ in range(2))
        counts[judge(paired_gain((better + gain).tolist(), worse.tolist(), 0.95))] += 1
    return {name: count / trials for name, count in counts.items()}


@pytest.mark.parametrize("seeds", [3, 5])
def test_without_a_difference_one_in_twenty_is_decided(seeds: int) -> None:
    found = simulate(0.0, seeds)
    within = 4 * math.sqrt(0.05 * 0.95 / 4000)
    assert abs(1 - found["undecided"] - 0.05) < within
    assert abs(found["agrees"] - 0.025) < within
    assert abs(found["disagrees"] - 0.025) < within


def test_a_true_difference_is_found_and_never_turned_round() -> None:
    # Six deviations of a difference (0.1 sqrt 2) with five seeds.
    found = simulate(6 * 0.1 * math.sqrt(2), 5)
    assert found["agrees"] > 0.99
    assert found["disagrees"] == 0
    reverse = simulate(-6 * 0.1 * math.sqrt(2), 5)
    assert reverse["disagrees"] > 0.99
    # A difference as large as a deviation is mostly left open by three seeds, as it should be.
    assert 0.5 < simulate(0.1 * math.sqrt(2), 3)["undecided"] < 0.95
