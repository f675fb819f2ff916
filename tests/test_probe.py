"""The probe: which sizes it tries, what it picks, and that it runs a real engine."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corpus.training import Pretrain
from pretrain import probe as module
from pretrain.batches import Batch
from pretrain.config import ModelShape
from pretrain.flops import attended_pairs
from pretrain.launch import join
from pretrain.masking import IGNORED, bernoulli_slots
from pretrain.probe import Timing, made_up, pick, probe, slots_of
from pretrain.world import World

SHAPE = ModelShape(
    layers=1, width=16, heads=2, feedforward_width=32, vocab_size=300, sequence_length=32
)
CPU = World(0, 1, torch.device("cpu"))


def make_config(**values: Any) -> Pretrain:  # noqa: ANN401
    return Pretrain.model_validate({"precision": "fp32", "dropout": 0.0, "zero_stage": 0} | values)


def fake_times(monkeypatch: pytest.MonkeyPatch, speeds: dict[int, float]) -> list[int]:
    """Let a size of r rows run at speeds[r] rows a second, or not fit where it has none."""
    tried = []

    def timed(shape: Any, config: Any, world: Any, batch: Batch) -> Timing | None:  # noqa: ANN401
        rows = len(batch.rows)
        tried.append(rows)
        return Timing(rows, rows / speeds[rows], 0.0, None) if rows in speeds else None

    monkeypatch.setattr(module, "_time", timed)
    return tried


def test_sizes_double_until_one_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake_times(monkeypatch, {1: 10, 2: 20, 4: 40})
    timings = probe(SHAPE, make_config(), CPU, 1e9)
    assert tried == [1, 2, 4, 8]
    assert [timing.rows for timing in timings] == [1, 2, 4]
    assert pick(timings).rows == 4


def test_sizes_end_with_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake_times(monkeypatch, {size: 10.0 * size for size in (1, 2, 4, 8)})
    probe(SHAPE, make_config(batch_sequences=5), CPU, 1e9)
    assert tried == [1, 2, 4]


def test_two_sizes_that_bring_nothing_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = fake_times(monkeypatch, {1: 10, 2: 20, 4: 20.1, 8: 20.2, 16: 90})
    timings = probe(SHAPE, make_config(), CPU, 1e9)
    assert tried == [1, 2, 4, 8]
    # 20.2 is no more than noise above 20: the smallest of them is taken.
    assert pick(timings).rows == 2


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every row takes a second: 8 microbatches of 1, then of 2 rows, are 24 seconds.
    tried = fake_times(monkeypatch, {size: 1.0 for size in (1, 2, 4, 8)})
    probe(SHAPE, make_config(), CPU, 30)
    assert tried == [1, 2]


def test_what_cannot_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 10_000}))
    assert probe(SHAPE, make_config(), CPU, 10) == []


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=8))
def test_the_pick_is_as_fast_as_any(seconds: list[float]) -> None:
    timings = [Timing(2**at, one, 0.0, None) for at, one in enumerate(seconds)]
    fastest = max(timing.rows_per_second for timing in timings)
    assert pick(timings).rows_per_second * 1.02 >= fastest


def test_made_up_rows_are_full_and_have_all_their_labels() -> None:
    batch = made_up(SHAPE, make_config(), 3)
    assert slots_of(make_config(), SHAPE) == 5
    # A row of 32 exceeds 20 draws of 15 % less than once in 2^40 times.
    assert slots_of(make_config(masking="bernoulli"), SHAPE) == bernoulli_slots(
        round(0.15 * 2**32), 32
    )
    ramp = {"from_prob": 0.3, "steps": 10}
    assert slots_of(make_config(mask_ramp=ramp), SHAPE) == 10
    assert batch.inputs.shape == (3, 32)
    assert batch.label_count == 15
    assert batch.token_count == 96
    assert not (batch.labels == IGNORED).any()
    assert (batch.inputs.gather(1, batch.slots) == batch.labels).all()
    assert int(batch.inputs.max()) < 299


def test_made_up_rows_have_documents_and_pairs_as_the_recipe_says() -> None:
    plain = made_up(SHAPE, make_config(), 3)
    assert plain.starts is plain.next_sentence is None
    isolated = made_up(SHAPE, make_config(isolate_documents=True), 3, 12)
    assert isolated.starts is not None
    assert isolated.starts.tolist() == [[0, 12, 24, 32, 32, 32, 32, 32]] * 3
    assert attended_pairs(isolated) == 3 * (144 + 144 + 64)
    whole = made_up(SHAPE, make_config(isolate_documents=True), 1)
    assert whole.starts is not None
    assert whole.starts.tolist() == [[0] + [32] * 7]
    many = made_up(SHAPE, make_config(isolate_documents=True), 1, 2)
    assert many.starts is not None
    assert many.starts.tolist() == [list(range(0, 32, 2))]
    shape = SHAPE.model_copy(update={"next_sentence": True})
    pairs = made_up(shape, make_config(), 3).next_sentence
    assert pairs is not None
    assert pairs.tolist() == [0, 1, 0]


def test_a_real_engine_with_documents_and_pairs_is_timed() -> None:
    shape = SHAPE.model_copy(update={"next_sentence": True})
    config = make_config(isolate_documents=True, batch_sequences=1)
    (timing,) = probe(shape, config, join(0, 1, 0), 1e9, document_tokens=12)
    assert timing.microbatch_seconds > 0


def test_a_real_engine_is_timed() -> None:
    timings = probe(SHAPE, make_config(batch_sequences=2), join(0, 1, 0), 1e9)
    assert [timing.rows for timing in timings] == [1, 2]
    assert all(timing.microbatch_seconds > 0 <= timing.update_seconds for timing in timings)
    assert all(timing.peak_bytes is None for timing in timings)
