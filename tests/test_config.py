import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pretrain_helpers import make_recipe, write_snapshot

from corpus.snapshots import open_snapshot
from corpus.training import Pretrain
from pretrain.config import (
    DataPlan,
    Identity,
    ModelShape,
    data_plan,
    learning_rate_at,
    model_shape,
)


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    config = Pretrain(learning_rate=1.0, warmup_steps=2, max_steps=6)
    rates = [learning_rate_at(config, step) for step in range(7)]
    assert rates == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]


def test_learning_rate_without_warmup_starts_at_the_peak() -> None:
    config = Pretrain(learning_rate=2.0, warmup_steps=0, max_steps=4)
    assert [learning_rate_at(config, step) for step in range(4)] == [2.0, 1.5, 1.0, 0.5]


def test_learning_rate_of_warmup_only() -> None:
    config = Pretrain(learning_rate=1.0, warmup_steps=2, max_steps=2)
    assert [learning_rate_at(config, step) for step in range(2)] == [0.5, 1.0]


def test_cosine_falls_by_half_a_wave() -> None:
    config = Pretrain(learning_rate=1.0, warmup_steps=2, max_steps=6, schedule="cosine")
    rates = [learning_rate_at(config, step) for step in range(7)]
    half = 0.5**0.5 / 2  # cos(pi / 4) / 2
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.5 + half, 0.5, 0.5 - half, 0.0])


def test_a_trapezoidal_schedule_holds_and_then_decays() -> None:
    shape: dict[str, Any] = {"learning_rate": 1.0, "max_steps": 6, "schedule": "trapezoidal"}
    config = Pretrain(warmup_steps=2, decay_steps=2, **shape)
    rates = [learning_rate_at(config, step) for step in range(7)]
    assert rates == [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    by_default = Pretrain(warmup_steps=0, **shape | {"max_steps": 21})
    rates = [learning_rate_at(by_default, step) for step in range(17, 22)]
    assert rates == pytest.approx([1.0, 1.0, 2 / 3, 1 / 3, 0.0])


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_steps is for schedule trapezoidal, not cosine"):
        Pretrain(schedule="cosine", decay_steps=3)
    with pytest.raises(ValueError, match="warmup_steps 6 and decay_steps 5 are more than"):
        Pretrain(schedule="trapezoidal", warmup_steps=6, decay_steps=5, max_steps=10)


def test_the_plan_holds_what_decides_batches_and_nothing_else(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path)

    def plan_hash(**changes: Any) -> str:  # noqa: ANN401
        return data_plan(make_recipe(tmp_path, tmp_path, **changes).pretrain, snapshot).hash

    same = plan_hash()
    free: dict[str, Any] = {
        "processes": 2,
        "zero_stage": 3,
        "microbatch_sequences": 1,
        "learning_rate": 1.0,
    }
    for name, value in free.items():
        assert plan_hash(**{name: value}) == same, name
    for name, value in {"seed": 8, "batch_sequences": 7, "mask_prob": 0.2}.items():
        assert plan_hash(**{name: value}) != same, name


def test_the_plan_hash_is_stable(tmp_path: Path) -> None:
    plan = data_plan(make_recipe(tmp_path, tmp_path).pretrain, write_snapshot(tmp_path))
    fixed = plan.model_copy(update={"snapshot": "0" * 64})
    assert fixed.hash == "2281c7c3b3808f1a80894d60609e5f45ce7a3dd0e52cf991562421ad0b4db9bf"


def make_plan(**changes: Any) -> DataPlan:  # noqa: ANN401
    values = {
        "version": 1, "snapshot": "0" * 64, "seed": 7, "batch_sequences": 4, "mask_prob": 0.15,
        "leave_unmasked_prob": 0.1, "random_token_prob": 0.1,
    }  # fmt: skip
    return DataPlan.model_validate(values | changes)


def test_static_masks_of_a_changing_rate_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask_copies with mask_ramp: .* take one of the two"):
        Pretrain.model_validate({"mask_copies": 10, "mask_ramp": {"from_prob": 0.3, "steps": 9}})


def test_new_fields_do_not_change_old_plan_hashes() -> None:
    plain = make_plan()
    values = {
        "batch_ramp": None, "skipped_batches": (), "mixing": (), "shuffle_shards": None,
        "masking": "fixed", "mask_ramp": None, "mask_copies": None, "isolate_documents": False,
        "next_sentence": True,
    }  # fmt: skip
    assert make_plan(**values).hash == plain.hash
    changes = {
        "batch_ramp": {"from_sequences": 1, "batches": 3}, "skipped_batches": (5,),
        "mixing": (("a", 1),), "shuffle_shards": 2, "masking": "span",
        "mask_ramp": {"from_prob": 0.3, "steps": 9}, "mask_copies": 10,
        "isolate_documents": True, "next_sentence": False,
    }  # fmt: skip
    assert changes.keys() == values.keys()
    hashes = {make_plan(**{name: value}).hash for name, value in changes.items()}
    assert len(hashes | {plain.hash}) == len(changes) + 1


def test_batches_of_one_size() -> None:
    assert [make_plan().batch_of(step) for step in (0, 1, 10**9)] == [
        (0, 0, 4), (1, 4, 4), (10**9, 4 * 10**9, 4),
    ]  # fmt: skip


def test_skipped_batches_are_stepped_over() -> None:
    plan = make_plan(skipped_batches=(6, 1, 2, 6))
    assert plan.skipped_batches == (1, 2, 6)
    assert [plan.batch_of(step).number for step in range(6)] == [0, 3, 4, 5, 7, 8]
    assert plan.batch_of(1).first == 12


def test_a_ramp_by_hand() -> None:
    # 2 + 4 b / 4 for b = 0 to 3, then 6: running sums 0, 2, 5, 9, 14, 20, 26.
    plan = make_plan(batch_sequences=6, batch_ramp={"from_sequences": 2, "batches": 4})
    places = [plan.batch_of(step) for step in range(6)]
    assert [place.sequences for place in places] == [2, 3, 4, 5, 6, 6]
    assert [place.first for place in places] == [0, 2, 5, 9, 14, 20]
    skipping = plan.model_copy(update={"skipped_batches": (2,)})
    assert [skipping.batch_of(step) for step in (1, 2)] == [(1, 2, 3), (3, 9, 5)]


@given(
    start=st.integers(1, 50), full=st.integers(1, 50), batches=st.integers(1, 40),
    skipped=st.sets(st.integers(0, 60), max_size=8),
)  # fmt: skip
def test_batches_follow_one_another_without_gaps(
    start: int, full: int, batches: int, skipped: set[int]
) -> None:
    ramp = {"from_sequences": start, "batches": batches}
    plan = make_plan(batch_sequences=full, batch_ramp=ramp)
    places = [plan.batch_of(step) for step in range(70)]
    for at, (before, place) in enumerate(itertools.pairwise(places)):
        assert place.first == before.first + before.sequences
        ideal = start + (full - start) * min(at, batches) / batches
        assert abs(before.sequences - ideal) < 1
        assert before.sequences >= min(start, full)
    assert places[batches].sequences == full
    thinned = plan.model_copy(update={"skipped_batches": tuple(sorted(skipped))})
    left = [place for place in places if place.number not in skipped]
    assert [thinned.batch_of(step) for step in range(len(left))] == left


def test_a_batch_before_the_first_cannot_be_skipped() -> None:
    with pytest.raises(ValueError, match="skipped_batches names -1: batches are counted from 0"):
        make_plan(skipped_batches=(3, -1))


@pytest.mark.parametrize(
    ("mixing", "whole"),
    [
        ({"wiki": 0.3, "books": 0.1}, (("books", 1), ("wiki", 3))),
        ({"wiki": 2, "books": 4, "web": 0}, (("books", 2), ("web", 0), ("wiki", 1))),
        ({"wiki": 1e-3, "books": 0.999}, (("books", 999), ("wiki", 1))),
        ({"one": 7.5}, (("one", 1),)),
        (None, ()),
    ],
)
def test_weights_become_whole_numbers(
    mixing: dict[str, float] | None, whole: tuple[tuple[str, int], ...]
) -> None:
    assert Pretrain(mixing=mixing).whole_mixing == whole


@pytest.mark.parametrize(
    ("mixing", "message"),
    [
        ({"a": -1.0, "b": 1.0}, "mixing gives a the weight -1.0: 0 or more"),
        ({"a": float("nan")}, "finite number"),
        ({"a": float("inf")}, "finite number"),
        ({"a": 0.0}, "mixing has no weight above 0"),
        ({}, "mixing has no weight above 0"),
        ({"a": 0.1234567891234, "b": 1}, "parts in whole numbers: use fewer digits"),
    ],
)
def test_weights_that_mean_nothing_are_refused(mixing: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Pretrain(mixing=mixing)


@pytest.mark.parametrize(
    ("preset", "millions"), [("tiny", 0.5), ("small", 3.3), ("base", 85.3), ("large", 303.0)]
)
def test_presets_have_the_sizes_of_the_paper(tmp_path: Path, preset: str, millions: float) -> None:
    shape = model_shape(preset, write_snapshot(tmp_path))
    layer = 4 * shape.width**2 + 2 * shape.width * shape.feedforward_width
    assert shape.layers * layer / 1e6 == pytest.approx(millions, rel=0.25)
    assert shape.width % shape.heads == 0
    assert shape.max_positions == shape.sequence_length + 2


def identity_of(store: Path, *skipped: int, **pretrain: Any) -> Identity:  # noqa: ANN401
    snapshot = open_snapshot(str(store))
    config = make_recipe(store, store, **pretrain).pretrain
    return Identity(
        snapshot_label=snapshot.label,
        tokenizer=snapshot.tokenizer,
        model=model_shape(config.preset, snapshot),
        plan=data_plan(config, snapshot, skipped),
    )


def test_identities_agree_where_only_later_batches_are_left_out(tmp_path: Path) -> None:
    write_snapshot(tmp_path)
    whole = identity_of(tmp_path)
    # Steps 0 to 4 take batches 0 to 4 in both; without batch 3 they take 0, 1, 2, 4, 5.
    assert whole.agrees(identity_of(tmp_path, 5), 5)
    assert identity_of(tmp_path, 5).agrees(whole, 5)
    assert whole.agrees(identity_of(tmp_path, 3), 3)
    assert not whole.agrees(identity_of(tmp_path, 3), 4)
    assert not whole.agrees(identity_of(tmp_path, 3), 5)
    # One that was left out before counts for both.
    assert identity_of(tmp_path, 1).agrees(identity_of(tmp_path, 1, 6), 5)
    assert not identity_of(tmp_path, 1).agrees(identity_of(tmp_path, 1, 5), 5)


def test_identities_disagree_where_anything_else_differs(tmp_path: Path) -> None:
    write_snapshot(tmp_path)
    whole = identity_of(tmp_path)
    assert whole.agrees(whole, 0)
    assert not whole.agrees(identity_of(tmp_path, seed=8), 0)
    assert not whole.agrees(identity_of(tmp_path, preset="small"), 0)


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)), st.integers(0, 20))
def test_identities_agree_exactly_if_the_steps_before_took_the_same_batches(
    skips: set[int], others: set[int], step: int
) -> None:
    def make(skipped: set[int]) -> Identity:
        values: dict[str, Any] = {"version": 1, "snapshot": "s", "seed": 0, "batch_sequences": 3}
        probabilities = {"mask_prob": 0.15, "leave_unmasked_prob": 0, "random_token_prob": 0}
        plan = DataPlan(**values, **probabilities, skipped_batches=tuple(skipped))
        shape = ModelShape(
            layers=1, width=2, heads=1, feedforward_width=3, vocab_size=10, sequence_length=4
        )
        return Identity(snapshot_label="one", tokenizer="t", model=shape, plan=plan)

    one, other = make(skips), make(others)
    taken = [[each.plan.batch_of(at) for at in range(step)] for each in (one, other)]
    assert one.agrees(other, step) == (taken[0] == taken[1])
