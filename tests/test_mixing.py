from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_helpers import make_entries, make_plan, make_recipe, rows_of, write_snapshot

from pretrain.batches import hash_batches, open_stream
from pretrain.config import data_plan
from pretrain.dataset import Shares
from pretrain.mixing import Order, interleave

ENTRIES = make_entries(("books", 7), ("wiki", 5), ("books", 0), ("books", 4), ("web", 30))


def test_interleaving_by_hand() -> None:
    homes, own = interleave(np.arange(9), (2, 1))
    # floor(2n / 3) = 0 0 1 2 2 3 4 4 5 6: the first takes the numbers at which it rises.
    assert homes.tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0]
    assert own.tolist() == [0, 0, 1, 1, 2, 3, 2, 4, 5]


@given(weights=st.lists(st.integers(1, 30), min_size=1, max_size=6), first=st.integers(0, 10**12))
def test_any_stretch_holds_the_sources_in_proportion(weights: list[int], first: int) -> None:
    total, count = sum(weights), len(weights)
    numbers = np.arange(first, first + 2 * total)
    homes, own = interleave(numbers, weights)
    for start in (0, total // 3):  # any cycle, wherever it begins
        counts = np.bincount(homes[start : start + total], minlength=count)
        assert counts.tolist() == weights
    for home, weight in enumerate(weights):
        mine = own[homes == home]
        assert np.array_equal(mine, np.arange(mine[0], mine[0] + 2 * weight))
        running = np.concatenate([[0], np.cumsum(homes == home)])
        drift = running - np.arange(2 * total + 1) * weight / total
        assert drift.max() - drift.min() < max(1, count - 1) + 1e-9


def test_large_weights_do_not_overflow() -> None:
    weights = (2**30, 2**30 - 1)
    homes, own = interleave(np.array([10**15, 10**15 + 1]), weights)
    assert sorted(homes.tolist()) == [0, 1]
    assert abs(int(own[homes == 0][0]) - 10**15 // 2) < 10**6


def test_without_weights_the_split_is_shuffled_as_a_whole() -> None:
    numbers = np.arange(100)
    places = Order(make_plan(), ENTRIES).places(numbers)
    assert np.array_equal(places.rows, rows_of(numbers, 46, seed=5))
    assert np.array_equal(places.passes, numbers // 46)


def source_of(rows: np.ndarray) -> list[str]:
    ends = np.cumsum([entry.rows for entry in ENTRIES])
    return [ENTRIES[at].source for at in np.searchsorted(ends, rows, side="right")]


@pytest.mark.parametrize("window", [None, 1, 2])
def test_each_source_passes_over_its_own_rows(window: int | None) -> None:
    mixing = (("books", 3), ("web", 0), ("wiki", 1))
    order = Order(make_plan(mixing=mixing, shuffle_shards=window), ENTRIES)
    places = order.places(np.arange(132))
    sources = np.array(source_of(places.rows))
    assert Counter(sources.tolist()) == {"books": 99, "wiki": 33}
    for source, rows in (("books", [*range(7), *range(12, 16)]), ("wiki", list(range(7, 12)))):
        taken = places.rows[sources == source]
        passes = places.passes[sources == source]
        for start in range(0, len(taken) - len(rows) + 1, len(rows)):
            one = slice(start, start + len(rows))
            assert sorted(taken[one].tolist()) == rows
            assert set(passes[one].tolist()) == {start // len(rows)}
    first, second = places.rows[sources == "books"].reshape(-1, 11)[:2].tolist()
    assert first != second


@settings(max_examples=40)
@given(
    shards=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    window=st.integers(1, 9), at=st.integers(0, 200),
)  # fmt: skip
def test_windows_hold_whole_shards_and_every_row_comes_once(
    shards: list[int], window: int, at: int
) -> None:
    entries = make_entries(*(("books", rows) for rows in shards))
    order = Order(make_plan(shuffle_shards=window), entries)
    count, ends = sum(shards), np.cumsum(shards)
    rows = order.places(np.arange(2 * count)).rows
    for one in (rows[:count], rows[count:]):
        assert np.array_equal(np.sort(one), np.arange(count))
        homes = np.searchsorted(ends, one, side="right")
        # While a window lasts only its shards are read: each shard's rows lie close together.
        full = [home for home, size in enumerate(shards) if size]
        first_seen = {home: int(np.flatnonzero(homes == home)[0]) for home in full}
        last_seen = {home: int(np.flatnonzero(homes == home)[-1]) for home in full}
        open_at_once = max(
            sum(first_seen[home] <= place <= last_seen[home] for home in full)
            for place in range(count)
        )
        assert open_at_once <= window
    needed = order.shards_from(at, at, windows=1)
    homes = np.searchsorted(ends, order.places(np.array([at])).rows, side="right")
    assert homes[0] in needed
    assert len(needed) <= window


def test_the_shards_that_are_next_are_known_across_passes() -> None:
    entries = make_entries(*(("books", 3) for _ in range(5)))
    order = Order(make_plan(shuffle_shards=2), entries)
    ends = np.cumsum([3] * 5)
    for number in range(40):
        ahead = order.places(np.arange(number, number + 3)).rows  # at most the next window
        homes = np.searchsorted(ends, ahead, side="right")
        assert set(homes.tolist()) <= set(order.shards_from(number, number, windows=2))
        batch = order.places(np.arange(number, number + 20)).rows
        homes = np.searchsorted(ends, batch, side="right")
        found = order.shards_from(number, number + 19, windows=2)
        assert set(homes.tolist()) <= set(found)
        # Its own windows and one more: those of each pass are 2 + 2 + 1 shards.
        assert found[-len(order.shards_from(number + 19, number + 19, windows=2)) :] == (
            order.shards_from(number + 19, number + 19, windows=2)
        )
    assert order.largest_sizes(2) == 4 * [300]


def test_the_shards_of_a_stretch_are_those_of_its_sources() -> None:
    mixing, window = (("books", 2), ("wiki", 1)), 1
    entries = make_entries(("books", 3), ("wiki", 4), ("books", 5), ("wiki", 2), ("books", 4))
    order = Order(make_plan(mixing=mixing, shuffle_shards=window), entries)
    ends = np.cumsum([entry.rows for entry in entries])
    for first in range(30):
        for size in (1, 2, 7, 30):
            rows = order.places(np.arange(first, first + size)).rows
            homes = set(np.searchsorted(ends, rows, side="right").tolist())
            assert homes <= set(order.shards_from(first, first + size - 1, windows=1))


def test_weights_must_name_the_sources() -> None:
    message = r"mixing names the sources \['books', 'wikis'\], the snapshot has \['books', 'web'"
    with pytest.raises(ValueError, match=message):
        Order(make_plan(mixing=(("books", 1), ("wikis", 1))), ENTRIES)


def test_a_source_without_rows_cannot_be_wanted() -> None:
    entries = make_entries(("books", 3), ("wiki", 0))
    with pytest.raises(ValueError, match="wants rows of wiki, which has none to train on"):
        Order(make_plan(mixing=(("books", 1), ("wiki", 1))), entries)
    assert Order(make_plan(mixing=(("books", 1), ("wiki", 0))), entries).names == ("books",)


@pytest.mark.parametrize(
    "changes",
    [
        {"mixing": {"books": 0.2, "wiki": 0.8}},
        {"shuffle_shards": 1},
        {"mixing": {"books": 0.7, "wiki": 0.3}, "shuffle_shards": 1, "mask_copies": 2},
        {"masking": "bernoulli", "mask_ramp": {"from_prob": 0.4, "steps": 9}},
        {"masking": "whole-word"},
        {"masking": "span", "batch_ramp": {"from_sequences": 3, "batches": 12}},
    ],
    ids=str,
)
def test_the_batch_does_not_depend_on_the_layout_in_any_mode(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    snapshot = write_snapshot(tmp_path)
    recipe = make_recipe(tmp_path, tmp_path, batch_sequences=10, **changes)
    stream = open_stream(str(tmp_path), snapshot, data_plan(recipe.pretrain, snapshot))
    seen = set()
    for step in (0, 9, 40):
        size = stream.plan.batch_of(step).sequences
        whole = hash_batches(stream.train_batches(Shares(size, 1, size), step, 0))
        seen.add(whole)
        for world, micro in ((2, 3), (3, 8), (7, 1)):
            shares = stream.shares_at(step, world, micro)
            ranks = [hash_batches(stream.train_batches(shares, step, at)) for at in range(world)]
            assert sum(ranks) % 2**256 == whole
    assert len(seen) == 3
