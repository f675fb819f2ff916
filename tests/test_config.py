from pathlib import Path
from typing import Any

import pytest
from pretrain_helpers import make_recipe, write_snapshot

from corpus.training import Pretrain
from pretrain.config import data_plan, learning_rate_at, model_shape


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
    assert fixed.hash == "4295755f41e0633fbd2395d687c5a269255f71117d260ee1718f0e4d0f5b6794"


@pytest.mark.parametrize(
    ("preset", "millions"), [("tiny", 0.5), ("small", 3.3), ("base", 85.3), ("large", 303.0)]
)
def test_presets_have_the_sizes_of_the_paper(tmp_path: Path, preset: str, millions: float) -> None:
    shape = model_shape(preset, write_snapshot(tmp_path))
    layer = 4 * shape.width**2 + 2 * shape.width * shape.feedforward_width
    assert shape.layers * layer / 1e6 == pytest.approx(millions, rel=0.25)
    assert shape.width % shape.heads == 0
    assert shape.max_positions == shape.sequence_length + 2
