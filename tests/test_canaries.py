"""Known pairs are what they claim, theory is exact, and a broken search is seen."""

import itertools
import logging
import math
import random
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from stage_helpers import corpus_of

from benchmarks.recall import is_beyond_chance
from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline import signatures
from pipeline.canaries import (
    BINS,
    PAIRS_PER_BIN,
    STOP_CHANCE,
    WARN_CHANCE,
    Bin,
    Search,
    canaries,
    candidate_pairs,
    check,
    count_distribution,
    describe,
    measure,
    recall_curve,
    replaced_places,
    to_json,
    two_sided_tails,
)
from pipeline.index import column_values
from pipeline.kernels import UInt8s, UInt32s, UInt64s
from pipeline.keys import INDEX_SCHEMA, KEY_SCHEMA
from pipeline.pairs import group_partition
from pipeline.signatures import (
    normalize,
    reference_shingles,
    write_arrow,
)
from pipeline.stretch import open_arrow

DEFAULT = Dedup()
CONFIGS = [
    DEFAULT,
    Dedup(bands=14, rows=8),
    Dedup(bands=20, rows=5),
    *(Dedup(ngram=ngram) for ngram in (1, 2, 3, 4, 6, 7, 8)),
]


def name_of(config: Dedup) -> str:
    return f"{config.bands}x{config.rows}-{config.ngram}"


@pytest.mark.parametrize("ngram", [1, 2, 3, 5, 8, 30])
@pytest.mark.parametrize("bounds", [BINS[0], BINS[4], BINS[-1], (75, 76), (99, 100)])
def test_a_canary_has_the_similarity_it_claims(ngram: int, bounds: tuple[int, int]) -> None:
    low, high = bounds
    claimed = set()
    for pair in canaries(ngram, bounds, first=32, count=20, seed=0):
        left, right = (reference_shingles(text, ngram) for text in (pair.left, pair.right))
        assert (len(left & right), len(left | right)) == (pair.shared, pair.total)
        assert low * pair.total <= 100 * pair.shared < high * pair.total
        assert len(left) == len(right) <= 600
        claimed.add(Fraction(pair.shared, pair.total))
    assert len(claimed) > 10


def test_every_sixteenth_canary_is_written_without_spaces() -> None:
    pairs = canaries(5, BINS[0], first=0, count=64, seed=0)
    unspaced = [n for n, pair in enumerate(pairs) if " " not in pair.left + pair.right]
    assert unspaced == [0, 16, 32, 48]
    assert {len(character.encode()) for character in pairs[0].left} == {3, 4}
    assert {len(character.encode()) for character in pairs[1].left} == {1, 2}
    for pair in pairs:
        assert (normalize(pair.left), normalize(pair.right)) == (pair.left, pair.right)


@pytest.mark.parametrize("ngram", [1, 2, 5])
def test_different_canaries_share_no_shingle(ngram: int) -> None:
    total, every = 0, set()
    for number, bounds in enumerate(BINS):
        for pair in canaries(ngram, bounds, number * PAIRS_PER_BIN, PAIRS_PER_BIN, 0)[::8]:
            total += pair.total
            for text in (pair.left, pair.right):
                words = text.split() if " " in text else list(text)
                every |= {tuple(words[n : n + ngram]) for n in range(len(words) - ngram + 1)}
    assert len(every) == total


def test_characters_begin_a_new_lap_without_repeating_neighbours() -> None:
    first, again = (canaries(2, BINS[0], n * 16, 1, 0)[0] for n in (0, 63_611 // 182))
    assert first.left[0] == again.left[0]
    assert not reference_shingles(first.left, 2) & reference_shingles(again.left, 2)


def test_replaced_places_by_hand() -> None:
    assert replaced_places(10, 5, 3) == [1, 6]
    assert replaced_places(10, 6, 3) == [3, 8]
    assert replaced_places(10, 2, 5) == [1]
    assert replaced_places(4, 4, 1) == [0, 1, 2, 3]


@pytest.mark.parametrize("ngram", range(1, 7))
def test_exactly_so_many_shingles_are_destroyed(ngram: int) -> None:
    for shingles in range(1, 25):
        for destroyed in range(1, shingles + 1):
            places = replaced_places(shingles, destroyed, ngram)
            touched = [set(range(p - ngram + 1, p + 1)) & set(range(shingles)) for p in places]
            assert len(set().union(*touched)) == destroyed
            assert max(places) < shingles + ngram - 1


def test_curve_by_hand() -> None:
    curve = recall_curve(np.array([0.0, 0.5, 0.8]), Dedup(bands=2, rows=2))
    assert curve == pytest.approx([0, 1 - 0.75**2, 1 - 0.36**2], rel=1e-15)
    tiny = recall_curve(np.array([0.5]), Dedup(bands=3, rows=60))
    assert tiny[0] == pytest.approx(3 * 2.0**-60, rel=1e-12)
    # Figures of DESIGN.md, Duplicates 1.
    shares = [
        recall_curve(np.array([0.8]), Dedup(bands=bands, rows=rows))[0]
        for bands, rows in ((32, 8), (14, 8), (20, 13))
    ]
    assert shares == pytest.approx([0.997, 0.92, 0.68], abs=0.005)


def test_three_events_by_hand() -> None:
    counts = count_distribution(np.array([0.5, 0.25, 0.1]))
    assert counts == pytest.approx([0.3375, 0.4875, 0.1625, 0.0125])
    assert two_sided_tails(counts) == pytest.approx([0.675, 1, 0.35, 0.025])
    assert two_sided_tails(count_distribution(np.ones(3))).tolist() == [0, 0, 0, 1]


def test_four_events_against_every_outcome() -> None:
    chances = [0.9, 0.35, 1e-6, 0.99999]
    every = np.zeros(5)
    for outcome in itertools.product((0, 1), repeat=4):
        every[sum(outcome)] += math.prod(
            p if hit else 1 - p for p, hit in zip(chances, outcome, strict=True)
        )
    assert count_distribution(np.array(chances)) == pytest.approx(every, rel=1e-9)


def test_equal_chances_are_a_binomial_to_the_smallest_tail() -> None:
    events, chance = 300, 0.375
    exact = [
        Fraction(math.comb(events, n) * 3**n * 5 ** (events - n), 8**events)
        for n in range(events + 1)
    ]
    counts = count_distribution(np.full(events, chance))
    assert counts == pytest.approx(list(map(float, exact)), rel=1e-11)
    tails = two_sided_tails(counts)
    for n in (0, 1, 60, 110, 113, 150, 299, 300):
        smaller = min(sum(exact[: n + 1]), sum(exact[n:]))
        assert tails[n] == pytest.approx(float(min(1, 2 * smaller)), rel=1e-10)
    assert tails[0] < 1e-60


def test_candidates_by_hand() -> None:
    key = np.array([1, 1, 1, 2, 2, 3, 9, 9], np.uint64)
    band = np.array([0, 0, 1, 0, 0, 0, 1, 1], np.uint8)
    document = np.array([4, 7, 2, 4, 7, 1, 0, 2], np.uint64)
    left, right = candidate_pairs(key, band, document)
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 2), (4, 7)]
    none = np.empty(0, np.uint64)
    assert [len(each) for each in candidate_pairs(none, none.astype(np.uint8), none)] == [0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_candidates_against_every_pair(seed: int) -> None:
    rng = random.Random(seed)
    rows = sorted({(rng.randrange(4), rng.randrange(3), rng.randrange(30)) for _ in range(150)})
    expected = {(one[2], other[2]) for one, other in combinations(rows, 2) if one[:2] == other[:2]}
    columns = list(zip(*rows, strict=True))
    left, right = candidate_pairs(
        np.array(columns[0], np.uint64),
        np.array(columns[1], np.uint8),
        np.array(columns[2], np.uint64),
    )
    found = list(zip(left.tolist(), right.tolist(), strict=True))
    assert found == sorted(expected)


def through_the_index(root: Path, partitions: int) -> Search:
    """Return the search as a store does it: index files, then one group task a partition."""

    def search(key: UInt64s, band: UInt8s, document: UInt64s) -> tuple[UInt64s, UInt64s]:
        count = int(document.max()) + 1
        rows = {
            "id": [str(n) for n in range(count)],
            "file": ["f"] * count,
            "position": list(range(count)),
            "text_hash": [n.to_bytes(16, "big") for n in range(count)],
            "set_hash": [n.to_bytes(16, "big") for n in range(count)],
            "text_bytes": [1] * count,
            "preference": [bytes(24)] * count,
        }
        keys = pa.table([key, band, document.astype(np.uint32)], schema=KEY_SCHEMA)
        write_arrow(f"{root}/index/part.keys.arrow", keys)
        write_arrow(f"{root}/index/part.documents.arrow", pa.table(rows, schema=INDEX_SCHEMA))
        tables = []
        for number in range(partitions):
            share = (number, partitions)
            group_partition(Tree(str(root)), str(number), corpus_of(["part"]), share)
            tables.append(open_arrow(f"{root}/work/group/{number}.pairs.arrow"))
        pairs = pa.concat_tables(tables)
        return column_values(pairs, "left"), column_values(pairs, "right")

    return search


@pytest.mark.parametrize("config", CONFIGS[:3], ids=name_of)
def test_a_store_finds_the_same_canaries(
    config: Dedup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    stored = measure(config, through_the_index(tmp_path, 4), pairs_per_bin=16)
    assert stored == measure(config, pairs_per_bin=16)
    assert 60 < sum(each.found for each in stored) < 160


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_sound_configurations_lie_inside(config: Dedup, caplog: pytest.LogCaptureFixture) -> None:
    bins = measure(config)
    check(bins)
    assert not caplog.records
    assert [(each.similarity_low, each.similarity_high) for each in bins] == [
        (low / 100, high / 100) for low, high in BINS
    ]
    for each in bins:
        assert each.pairs == PAIRS_PER_BIN
        assert each.found_low <= each.found <= each.found_high
        assert each.found_low <= round(each.expected) <= each.found_high
        assert each.chance > WARN_CHANCE
        assert abs(each.expected / each.pairs - each.curve) < 0.02


def test_texts_stay_what_they_are() -> None:
    spaced, unspaced = (canaries(1, BINS[0], number, 1, 0)[0] for number in (1, 16))
    assert spaced.left.split()[:3] == [
        "cylak\u00e4ci",
        "redof\u00e8s\u00e0",
        "g\u00f6t\u00e1cum\u00e8",
    ]
    assert unspaced.left[:5] == "\U00024d02\U000233cd\U00021a98\U00020163\u87d4"


def test_the_same_bins_every_time() -> None:
    one, again, other = (measure(DEFAULT, pairs_per_bin=40, seed=seed) for seed in (3, 3, 4))
    assert one == again
    assert [each.found for each in one] != [each.found for each in other]
    assert [each.expected for each in one] == [each.expected for each in other]


def test_about_one_in_a_hundred_lies_outside_by_chance() -> None:
    config, seeds = Dedup(bands=8, rows=3), 25
    bins = [
        each
        for seed in range(1, seeds + 1)
        for each in measure(config, bins=BINS[:6], pairs_per_bin=100, seed=seed)
    ]
    chances = np.array([each.chance for each in bins])
    for share in (0.01, 0.1, 0.5):
        # Counts are whole, so only too many would be wrong. Five deviations.
        assert (chances <= share).sum() < share * len(bins) + 5 * math.sqrt(share * len(bins))
    assert chances.min() > 1e-6


def repeat_after(period: int) -> Callable[[int], tuple[UInt32s, UInt32s]]:
    """Return permutations of which only the first so many differ."""
    sound = signatures.permutations

    def permutations(count: int) -> tuple[UInt32s, UInt32s]:
        multipliers, addends = sound(count)
        places = np.arange(count) % period
        return multipliers[places], addends[places]

    return permutations


@pytest.mark.parametrize("period", [1, 8, 128])
def test_bands_that_share_rows_stop_the_job(period: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "permutations", repeat_after(period))
    with pytest.raises(ValueError, match="search for near-duplicates is broken"):
        check(measure(DEFAULT))


def without_bands(every: int) -> Search:
    """Return a search that misses one band in so many."""

    def search(key: UInt64s, band: UInt8s, document: UInt64s) -> tuple[UInt64s, UInt64s]:
        kept = band % every != 0
        return candidate_pairs(key[kept], band[kept], document[kept])

    return search


@pytest.mark.parametrize("every", [2, 3, 4])
def test_a_search_that_misses_bands_stops_the_job(every: int) -> None:
    with pytest.raises(ValueError, match=r"similarity 0\.[67].* found .*, expected .*chance .*e-"):
        check(measure(DEFAULT, without_bands(every)))


def test_a_search_that_finds_everything_stops_the_job() -> None:
    def everything(key: UInt64s, band: UInt8s, document: UInt64s) -> tuple[UInt64s, UInt64s]:
        left = np.unique(document)[::2]
        return left, left + np.uint64(1)

    bins = measure(DEFAULT, everything)
    assert [each.found for each in bins] == [PAIRS_PER_BIN] * len(BINS)
    with pytest.raises(ValueError, match=r"0\.50 to 0\.55, 512 of 512 found \(100\.0 %\)"):
        check(bins)


def test_pairs_of_different_canaries_do_not_count() -> None:
    def neighbours(key: UInt64s, band: UInt8s, document: UInt64s) -> tuple[UInt64s, UInt64s]:
        left = np.unique(document)[1:-1:2]
        return left, left + np.uint64(1)

    assert {each.found for each in measure(DEFAULT, neighbours, pairs_per_bin=16)} == {0}


def test_one_band_in_eight_warns_and_in_sixteen_goes_unseen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check(measure(DEFAULT, without_bands(16)))
    assert not caplog.records
    bins = measure(DEFAULT, without_bands(8))
    with caplog.at_level(logging.WARNING):
        check(bins)
    outside = [each for each in bins if not each.found_low <= each.found <= each.found_high]
    assert outside
    assert min(each.chance for each in bins) > STOP_CHANCE
    assert [record.getMessage() for record in caplog.records] == [
        f"canaries outside the interval: {describe(each)}" for each in outside
    ]


def test_a_stop_warns_of_every_bin_outside_first(caplog: pytest.LogCaptureFixture) -> None:
    bins = measure(DEFAULT, without_bands(2))
    with pytest.raises(ValueError, match="search for near-duplicates is broken"):
        check(bins)
    assert len(caplog.records) == sum(each.chance <= WARN_CHANCE for each in bins) > 5


def test_interval_and_chance_agree() -> None:
    (each,) = measure(DEFAULT, bins=[(60, 65)], pairs_per_bin=200)
    similarities = [pair.shared / pair.total for pair in canaries(5, (60, 65), 0, 200, 0)]
    chances = recall_curve(np.array(similarities), DEFAULT)
    tails = two_sided_tails(count_distribution(chances))
    assert each.expected == pytest.approx(chances.sum())
    assert each.chance == tails[each.found]
    inside = [n for n in range(201) if tails[n] > WARN_CHANCE]
    assert inside == list(range(each.found_low, each.found_high + 1))
    assert count_distribution(chances)[inside].sum() > 0.99


def test_description_by_hand() -> None:
    each = Bin(0.75, 0.8, 2000, 1500, 1600.5, 0.8, 1590, 1610, 1.25e-7)
    assert describe(each) == (
        "similarity 0.75 to 0.80, 1,500 of 2,000 found (75.0 %), expected 1,600.5 (80.0 %), "
        "99 % interval 1,590 to 1,610, chance 1.2e-07"
    )


def test_json_holds_every_field() -> None:
    bins = measure(DEFAULT, pairs_per_bin=16)
    written = orjson.loads(orjson.dumps(to_json(bins)))
    assert [Bin(**{name: row[name] for name in Bin._fields}) for row in written] == bins
    assert [row["recall"] for row in written] == [each.found / 16 for each in bins]


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(DEFAULT, pairs_per_bin=4)  # loads what numba has compiled

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError(f"opened {args} {options}")

    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        for module, name in (("builtins", "open"), ("io", "open"), ("os", "open"), ("os", "mkdir")):
            patched.setattr(f"{module}.{name}", refuse)
        bins = measure(DEFAULT, pairs_per_bin=4)
        to_json(bins)
    assert not list(tmp_path.iterdir())


def test_the_benchmark_fails_beyond_chance_only() -> None:
    fine = Bin(0.75, 0.76, 100, 50, 50.0, 0.5, 40, 60, 0.9)
    odd, wrong = fine._replace(chance=0.009), fine._replace(chance=0.9e-7)
    assert not is_beyond_chance([fine] * 10)
    # Four of ten: 210 x 0.01^4 = 2e-6; five: 252 x 0.01^5 = 3e-8.
    assert not is_beyond_chance([odd] * 4 + [fine] * 6)
    assert is_beyond_chance([odd] * 5 + [fine] * 5)
    assert is_beyond_chance([wrong] + [fine] * 9)
