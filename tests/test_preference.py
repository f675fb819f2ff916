"""Who is preferred: bytes that sort as the recipe says, and scopes."""

import math
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.recipe import Dedup
from pipeline.preference import (
    PREFERENCE_BYTES,
    complaints,
    count_scored,
    preferences,
    scope_of,
)

QUALITY = Dedup(prefer=("quality",), quality_key="score")
LENGTH = Dedup(prefer=("length",))
scores = st.integers(-(2**52), 2**52).map(lambda n: n / 1024)


def table(*rows: dict[str, Any]) -> pa.Table:
    plain = {"source": "a", "text": "", "meta": None}
    schema = pa.schema([(name, pa.string()) for name in plain])
    return pa.Table.from_pylist([plain | row for row in rows], schema=schema)


def scored(score: object) -> dict[str, Any]:
    return {"meta": orjson.dumps({"score": score}).decode()}


def ranked(config: Dedup, *rows: dict[str, Any]) -> list[int]:
    """Return the numbers of the rows, the preferred one first; equals in their given order."""
    found = preferences(table(*rows), config)
    assert {len(each) for each in found} <= {PREFERENCE_BYTES}
    return sorted(range(len(rows)), key=lambda row: found[row])


def test_without_a_preference_all_are_equal() -> None:
    rows = table({"source": "b", "text": "long"} | scored(1), {"source": "a"})
    assert preferences(rows, Dedup()) == [bytes(PREFERENCE_BYTES)] * 2
    assert preferences(table(), Dedup()) == preferences(table(), LENGTH) == []


def test_sources_go_by_the_recipes_order_and_unlisted_ones_come_last() -> None:
    config = Dedup(prefer=("source",), source_priority=("b", "a"))
    rows = [{"source": name} for name in ("z", "a", "b", "y")]
    assert ranked(config, *rows) == [2, 1, 0, 3]
    found = preferences(table(*rows), config)
    assert found[0] == found[3]


@given(scores, scores)
def test_the_higher_score_goes_first(one: float, other: float) -> None:
    first, second = preferences(table(scored(one), scored(other)), QUALITY)
    steps = math.floor(one * 1000), math.floor(other * 1000)
    assert (first < second) == (steps[0] > steps[1])
    assert (first == second) == (steps[0] == steps[1])


@pytest.mark.parametrize(
    "meta",
    [
        None, "{}", '{"other": 9}', '{"score": null}', '{"score": true}', '{"score": [9]}',
        '{"score": ""}', '{"score": "high"}', '{"score": "nan"}', '{"score": "-inf"}',
        '{"score": "1e999"}', '{"score": "True"}',
    ],
)  # fmt: skip
def test_a_record_without_a_number_comes_after_every_score(meta: str | None) -> None:
    rows = [{"meta": meta}, scored(-1e300), scored(0), scored(1e300)]
    assert ranked(QUALITY, *rows) == [3, 2, 1, 0]


@given(scores)
def test_a_score_in_a_csv_file_counts_as_the_number_that_it_spells(score: float) -> None:
    found = preferences(table(scored(score), scored(str(score)), scored(f" {score:+} ")), QUALITY)
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("score", [1e306, 1.7e308, "1e306", 2**63])
def test_scores_that_the_scale_makes_infinite_are_its_ends(score: float | str) -> None:
    """1e306 in thousandths is more than a float holds."""
    less = f"-{score}" if isinstance(score, str) else -score
    found = preferences(table(scored(score), scored(1e300), scored(-1e300), scored(less)), QUALITY)
    assert found[0] == found[1] == bytes(PREFERENCE_BYTES)
    assert found[2] == found[3] == (2**64 - 2).to_bytes(8, "big") + bytes(16)


def test_scores_beyond_the_scale_are_its_ends() -> None:
    """Two that are too good are equally good; neither meets a record without a score."""
    found = preferences(table(scored(1e300), scored(1e200), scored(-1e300), {}), QUALITY)
    assert found[0] == found[1] == bytes(PREFERENCE_BYTES)
    assert found[2] < found[3]


def test_quality_is_compared_in_thousandths() -> None:
    found = preferences(table(scored(0.5), scored(0.5004), scored(0.501)), QUALITY)
    assert found[2] < found[0] == found[1]
    # 2^63 - 500, then 16 bytes for the two criteria that are not there
    assert found[0] == (2**63 - 500).to_bytes(8, "big") + bytes(16)


@given(st.text(max_size=9), st.text(max_size=9))
def test_the_longer_text_goes_first_in_bytes(one: str, other: str) -> None:
    first, second = preferences(table({"text": one}, {"text": other}), LENGTH)
    sizes = len(one.encode()), len(other.encode())
    assert (first < second) == (sizes[0] > sizes[1])
    assert (first == second) == (sizes[0] == sizes[1])


def test_criteria_count_in_the_order_they_are_listed() -> None:
    rows = [
        {"source": "a", "text": "long text"} | scored(1),
        {"source": "b", "text": "text"} | scored(2),
        {"source": "a", "text": "a"} | scored(2),
        {"source": "b", "text": "longest text"} | scored(1),
    ]
    given_keys = {"source_priority": ("b",), "quality_key": "score"}
    for prefer, order in (
        (("source", "quality", "length"), [1, 3, 2, 0]),
        (("quality", "source", "length"), [1, 2, 3, 0]),
        (("length", "quality", "source"), [3, 0, 1, 2]),
        (("quality", "length", "source"), [1, 2, 3, 0]),
    ):
        assert ranked(Dedup(prefer=prefer, **given_keys), *rows) == order, prefer


def test_scopes() -> None:
    places = [("s1", "a"), ("s1", "b"), ("s2", "a")]
    for scope, expected in (
        ("corpus", ["", "", ""]),
        ("snapshot", ["snapshot s1", "snapshot s1", "snapshot s2"]),
        ("source", ["source a", "source b", "source a"]),
    ):
        config = Dedup(scope=scope)
        assert [scope_of(*place, config) for place in places] == expected


def test_what_decides_nothing_in_a_delivery_is_told() -> None:
    both = Dedup(prefer=("source", "quality"), source_priority=("B", "web"), quality_key="score")
    unscored = count_scored(table({"meta": '{"scoer": 1}'}, {}, scored("high")), both)
    assert unscored == {"scored": 0}
    source, quality = complaints(both, ["a", "b"], 0)
    assert source == (
        "dedup.source_priority names B, web, the sources are a, b: no source is preferred"
    )
    assert quality.startswith("dedup.quality_key is score, and no document has a number under it")
    assert count_scored(table(scored("9"), {}, scored(0)), both) == {"scored": 2}
    assert list(complaints(both, ["b", "web"], 2)) == []
    assert count_scored(table(scored(9)), LENGTH) == {}
    assert list(complaints(LENGTH, ["a"], 0)) == []
