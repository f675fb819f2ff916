"""Bins by hand, and counts of parts that add up to those of the whole."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.distributions import Kind, add_counts, bins_of, count_bins
from pipeline.pictures import Bin, histogram
from pipeline.rules import BY_NAME

KINDS: tuple[Kind, ...] = ("share", "percent", "mean", "count")


def test_shares_by_hand() -> None:
    values = np.array([0.0, 0.019, 0.02, 0.3, 0.999, 1.0, 7.5, np.nan])
    assert count_bins(values, "share") == {"0": 2, "1": 1, "15": 1, "49": 1, "50": 2}


def test_percentages_and_means_by_hand() -> None:
    values = np.array([0.0, 1.0, 2.0, 70.0, 71.0, 99.0, 100.0])
    assert count_bins(values, "percent") == {"0": 2, "1": 1, "35": 2, "49": 1, "50": 1}
    values = np.array([2.99, 3.0, 3.49, 10.0, 25.0, 400.0])
    assert count_bins(values, "mean") == {"5": 1, "6": 2, "20": 1, "50": 2}


def test_counts_by_hand() -> None:
    # 1 opens bin 1, 2 bin 3, 4 bin 5, 50 = 2^5.64 bin 12.
    values = np.array([0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 50.0, 1e30])
    assert count_bins(values, "count") == {
        "0": 1, "1": 2, "3": 1, "4": 1, "5": 1, "12": 1, "49": 1,
    }  # fmt: skip
    edges = [(each.low, each.high) for each in bins_of({"0": 1, "8": 1}, "count", None)]
    assert edges == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 6), (6, 8), (8, 12), (12, 16)]


def test_what_a_rule_looks_at_is_told_by_the_rule_not_by_its_threshold() -> None:
    kinds = {
        "gopher_duplicate_lines": "share", "gopher_min_words": "count", "c4_min_sentences": "count",
        "gopher_max_mean_word_length": "mean", "c4_lorem_ipsum": "count",
        "c4_line_terminal_mark": "count", "gopher_hash_to_word_ratio": "share",
    }  # fmt: skip
    assert {name: BY_NAME[name].kind for name in kinds} == kinds


@given(st.lists(st.floats(0, 1e9)), st.sampled_from(KINDS), st.integers(0))
def test_parts_add_up(values: list[float], kind: Kind, cut: int) -> None:
    cut %= len(values) + 1
    parts = [
        {"rule": count_bins(np.array(each, np.float64), kind)}
        for each in (values[:cut], values[cut:])
    ]
    assert add_counts(parts) == {"rule": count_bins(np.array(values, np.float64), kind)}
    for each in bins_of(parts[0]["rule"], kind, 3.0):
        assert each.low < each.high


@pytest.mark.parametrize(
    ("kind", "threshold", "value"),
    [("share", 0.3, 0.5), ("count", 50.0, 7.0), ("count", 1.0, 2.0), ("percent", 65.0, 99.0),
     ("mean", 10.0, 4.2)],
)  # fmt: skip
def test_a_picture_reaches_from_the_values_to_the_threshold(
    kind: Kind, threshold: float, value: float
) -> None:
    bins = bins_of(count_bins(np.array([value]), kind), kind, threshold)
    assert [each.high for each in bins[:-1]] == [each.low for each in bins[1:]]
    for place in (threshold, value):
        assert bins[0].low <= place < bins[-1].high
    (held,) = (each for each in bins if each.documents)
    assert held.low <= value < held.high


def test_nothing_looked_at_is_a_picture_too() -> None:
    assert [each.documents for each in bins_of({}, "percent", None)] == [0]


@pytest.mark.parametrize(
    ("threshold", "side", "kinds", "marks"),
    [
        (2.0, "min", ["rule", "kept"], 1),
        (1.0, "max", ["kept", "rule"], 1),
        (None, "min", ["kept", "kept"], 0),
    ],
)
def test_bars_beyond_the_threshold_are_of_another_colour(
    threshold: float | None, side: str, kinds: list[str], marks: int
) -> None:
    picture = histogram("t", [Bin(1, 2, 100_000), Bin(2, 3, 1)], threshold, side)
    root = ET.fromstring(f"<p>{picture}</p>")
    bars = list(root.iter("rect"))
    assert [bar.get("class") for bar in bars] == kinds
    assert min(float(bar.get("height", 0)) for bar in bars) > 1  # one of many is seen
    assert len(list(root.iter("line"))) == marks
