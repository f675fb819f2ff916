"""Losses that are no number or leap, in runs whose batches are poisoned on purpose."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pretrain_helpers import column, make_recipe
from rank_helpers import run_ranks
from test_checkpoints import IDENTITY, STATE
from torch import Tensor

from corpus.recipe import Recipe
from corpus.snapshots import open_snapshot
from corpus.training import Pretrain
from pretrain.batches import open_stream
from pretrain.checkpoints import list_checkpoints, newest_checkpoint, read_state
from pretrain.config import data_plan
from pretrain.dataset import Shares
from pretrain.explain import explain_batch, explain_step
from pretrain.launch import run_training
from pretrain.model import MaskedLanguageModel
from pretrain.preemption import Notice
from pretrain.spikes import (
    LossWatch,
    Rollback,
    Spike,
    listed_batches,
    loss_limit,
    read_rollbacks,
    restore_rollbacks,
    roll_back,
    skipped_batches,
    watch_losses,
    write_rollbacks,
)
from pretrain.train import train
from pretrain.world import World
from pretrain.writer import CheckpointWriter

STEPS = 24
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS,
    "checkpoint_every_steps": 6,
    "keep_checkpoints": 2,
    "validate_every_steps": 12,
    "on_spike": "skip",
    "spike_window_steps": 16,
    "spike_sigmas": 20,
    "spike_batches": 1,
}
POISONED = 20

Poison = Callable[[Tensor], Tensor]


def no_number(loss: Tensor) -> Tensor:
    return loss * math.nan


def leap(loss: Tensor) -> Tensor:
    return loss * 3


def bad_gradient(loss: Tensor) -> Tensor:
    out = loss.clone()
    if out.requires_grad:
        out.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[no-untyped-call]
    return out


def first_row(store: Path, batch: int) -> Tensor:
    """The first row of a batch as the model sees it."""
    snapshot = open_snapshot(str(store))
    plan = data_plan(make_recipe(store, store).pretrain, snapshot)
    (found,) = open_stream(str(store), snapshot, plan).train_batches(Shares(6, 1, 6), batch, 0)
    return found.inputs[0]


def poison(patch: pytest.MonkeyPatch, store: Path, how: Poison, *batches: int) -> None:
    """Let the model's loss go wrong on the first rows of some batches."""
    rows = torch.stack([first_row(store, batch) for batch in batches])
    healthy = MaskedLanguageModel.forward

    def forward(self: MaskedLanguageModel, inputs: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
        loss = healthy(self, inputs, *rest)
        return how(loss) if (inputs[:, None] == rows).all(2).any() else loss

    patch.setattr(MaskedLanguageModel, "forward", forward)


@pytest.fixture(scope="module")
def clean(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A healthy run that leaves the batch out from its beginning, because skipped.json says so."""
    run = tmp_path_factory.mktemp("clean")
    entry = {"step": 0, "reason": "test", "batches": [POISONED], "went_back_to": 0}
    (run / "skipped.json").write_bytes(orjson.dumps([entry]))
    run_training(make_recipe(store, run, **SETTINGS))
    return run


def test_the_limit_worked_out_by_hand() -> None:
    assert loss_limit([2.0, 2.1, 2.2, 2.3, 9.0], 6.0) == 2_200_000 + 889_560


def test_losses_without_spread_leave_room_for_a_tenth() -> None:
    assert loss_limit([3.0] * 8, 6.0) == 3_100_000


@given(st.lists(st.floats(0, 20), min_size=4, max_size=9), st.randoms())
def test_the_limit_does_not_depend_on_the_order(losses: list[float], random: Any) -> None:  # noqa: ANN401
    shuffled = random.sample(losses, len(losses))
    assert loss_limit(shuffled, 6.0) == loss_limit(losses, 6.0) >= round(min(losses) * 10**6)


@given(st.lists(st.floats(2.0, 2.2), min_size=8, max_size=8), st.floats(10, 1e6))
def test_one_outlier_hardly_moves_the_limit(losses: list[float], outlier: float) -> None:
    assert loss_limit([*losses[1:], outlier], 6.0) <= 2_200_000 + 6 * 1.4826 * 200_000


def make_watch(policy: str, losses: list[float]) -> LossWatch:
    config = Pretrain.model_validate({"on_spike": policy, "spike_window_steps": 16})
    return LossWatch(config, losses)


def test_leaps_are_judged_once_the_window_is_full() -> None:
    watch = make_watch("skip", [5.0] * 15)
    assert watch.judge(9.0, 1.0) is None
    reason = watch.judge(9.0, 1.0)
    assert reason is not None
    assert "loss 9.000000, above the limit of 5.100000" in reason
    # What was judged a leap does not count for the next: the limit stays.
    assert watch.judge(9.0, 1.0) == reason


def test_stop_looks_for_no_leaps() -> None:
    assert make_watch("stop", [1.0] * 16).judge(9.0, 1.0) is None


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize(
    ("loss", "norm"), [(math.nan, 1.0), (math.inf, None), (1.0, math.nan), (1.0, math.inf)]
)
def test_what_is_no_number_is_always_wrong(policy: str, loss: float, norm: float | None) -> None:
    assert make_watch(policy, []).judge(loss, norm) == f"loss {loss} and gradient norm {norm}"


@pytest.mark.parametrize("how", [no_number, leap])
def test_the_guilty_batch_is_left_out_and_the_rest_is_as_if_it_never_was(
    store: Path, clean: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Poison,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    poison(monkeypatch, store, how, POISONED)
    run_training(make_recipe(store, tmp_path, **SETTINGS))
    (rollback,) = read_rollbacks(str(tmp_path))
    assert (rollback.step, rollback.batches, rollback.went_back_to) == (20, (POISONED,), 18)
    assert "going back to step 18 without batches 20" in caplog.text
    guilty, *others = rollback.worst
    assert guilty.sequence == 6 * POISONED  # `poison` knows the batch by its first row
    assert len(others) == 2
    assert how is leap or guilty.loss is None
    assert all(each.loss is not None and 3 < each.loss < 8 for each in others)
    assert "1 batches were left out" in caplog.text
    for name in ("batch_hash", "loss", "gradient_norm", "batch"):
        assert column(tmp_path, name) == column(clean, name), name
    assert column(tmp_path, "batch") == [*range(POISONED), *range(POISONED + 1, STEPS + 1)]
    assert column(tmp_path, "skipped_batches") == [0] * 18 + [1] * 6
    assert column(tmp_path, "rollbacks") == [0] * 18 + [1] * 6
    assert "what the ranks trained on" in explain_step(str(tmp_path), 22)
    assert explain_batch(str(tmp_path), POISONED + 1) == explain_step(str(tmp_path), POISONED)
    left_out = explain_batch(str(tmp_path), POISONED)
    assert f"step {POISONED} of" in left_out
    assert "(the run left this batch out)" in left_out
    assert f"among the largest losses: sequence {6 * POISONED}, " in left_out
    name = guilty.shard.removeprefix("shards/").removesuffix(".arrow")
    assert f"row {guilty.row} of {guilty.shard}, source {name.split('/')[1]}" in left_out
    command = f"python -m pipeline show {store} --snapshot one --row {name}:{guilty.row}"
    assert f"where the whole store is: {command}" in left_out
    assert f"sequences   {6 * POISONED} to {6 * POISONED + 5}, pass 1 of 97 rows" in left_out
    message = f"batch {STEPS + 1} is not in this run: its {STEPS} steps took, or left out"
    with pytest.raises(ValueError, match=message):
        explain_batch(str(tmp_path), STEPS + 1)


def test_the_same_run_twice_skips_the_same(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, store, leap, POISONED)
    for name in ("one", "two"):
        run_training(make_recipe(store, tmp_path / name, **SETTINGS | {"max_steps": 21}))
    files = [tmp_path / name / "skipped.json" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_resumed_run_knows_what_it_leaves_out(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, store, no_number, POISONED)
    settings = SETTINGS | {"warmup_steps": 0, "max_steps": 21}
    run_training(make_recipe(store, tmp_path, **settings))
    # Even without the file: the checkpoint says it too, and the file comes back.
    told = (tmp_path / "skipped.json").read_bytes()
    (tmp_path / "skipped.json").unlink()
    left_out = explain_batch(str(tmp_path), POISONED)
    assert "(the run left this batch out)" in left_out
    assert f"among the largest losses: sequence {6 * POISONED}, " in left_out
    run_training(make_recipe(store, tmp_path, **settings | {"max_steps": STEPS}))
    assert column(tmp_path, "batch") == [*range(POISONED), *range(POISONED + 1, STEPS + 1)]
    newest = read_state(list_checkpoints(str(tmp_path))[-1])
    assert newest.identity.plan.skipped_batches == (POISONED,)
    assert (tmp_path / "skipped.json").read_bytes() == told


def rollback(*batches: int) -> Rollback:
    return Rollback(step=batches[-1], reason="leap", batches=batches, went_back_to=batches[0])


@pytest.mark.parametrize(
    ("carried", "own", "expected"),
    [
        ([], [], [(1, 2, 5)]),  # an older checkpoint, which has the numbers alone
        ([rollback(1, 2), rollback(5)], [], [(1, 2), (5,)]),
        ([rollback(1, 2), rollback(5)], [rollback(1, 2)], [(1, 2), (5,)]),
        ([rollback(1, 2)], [rollback(1, 2), rollback(5)], [(1, 2), (5,)]),
        ([rollback(1, 2), rollback(5)], [rollback(7)], [(1, 2), (5,), (7,)]),
    ],
)
def test_what_was_left_out_is_filled_up_by_the_checkpoint(
    tmp_path: Path,
    carried: list[Rollback],
    own: list[Rollback],
    expected: list[tuple[int, ...]],
) -> None:
    plan = IDENTITY.plan.model_copy(update={"skipped_batches": (1, 2, 5)})
    identity = IDENTITY.model_copy(update={"plan": plan})
    config = Pretrain(run=str(tmp_path))
    writer = CheckpointWriter(str(tmp_path), config, {})
    if carried:
        write_rollbacks(str(tmp_path), carried)
    writer.save_checkpoint(10, identity, STATE)
    writer.close()
    write_rollbacks(str(tmp_path), own)
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    restore_rollbacks(*found, str(tmp_path))
    assert [one.batches for one in read_rollbacks(str(tmp_path))] == expected
    # Rollbacks are counted on, not anew.
    config = config.model_copy(update={"max_rollbacks": len(expected)})
    spike = Spike(step=12, reason="leap", plan=plan)
    with pytest.raises(ValueError, match=rf"rolled back {len(expected)} times already"):
        roll_back(str(tmp_path), str(tmp_path), config, spike)


def test_the_batch_before_and_what_was_saved_of_it_go_too(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The checkpoint of step 7 holds the update of batch 6, which is suspected too: it goes.
    poison(monkeypatch, store, no_number, 7)
    settings = SETTINGS | {"spike_batches": 2, "checkpoint_every_steps": 1}
    run_training(make_recipe(store, tmp_path, **settings))
    (rollback,) = read_rollbacks(str(tmp_path))
    assert (rollback.step, rollback.batches, rollback.went_back_to) == (7, (6, 7), 6)
    assert rollback.sequences == ((36, 41), (42, 47))
    assert column(tmp_path, "batch") == [*range(6), *range(8, STEPS + 2)]


def test_a_gradient_that_is_no_number_is_seen_though_the_loss_is_well(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, store, bad_gradient, 6)
    run_training(make_recipe(store, tmp_path, **SETTINGS | {"max_steps": 8}))
    assert listed_batches(str(tmp_path)) == (6,)


def test_before_the_first_checkpoint_a_run_begins_anew(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, store, no_number, 1, 8)
    run_training(make_recipe(store, tmp_path, **SETTINGS))
    found = [(one.step, one.batches, one.went_back_to) for one in read_rollbacks(str(tmp_path))]
    # Step 7 takes batch 8 once batch 1 is left out.
    assert found == [(1, (1,), 0), (7, (8,), 6)]
    assert listed_batches(str(tmp_path)) == (1, 8)
    assert len(column(tmp_path, "loss")) == STEPS


def test_rollbacks_are_bounded(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, store, no_number, 4, 5, 6, 7)
    recipe = make_recipe(store, tmp_path, **SETTINGS | {"max_rollbacks": 2})
    with pytest.raises(ValueError, match=r"rolled back 2 times already \(pretrain.max_rollbacks\)"):
        run_training(recipe)
    assert listed_batches(str(tmp_path)) == (4, 5)
    # The same command again comes upon it again.
    with pytest.raises(ValueError, match=r"step 4 gave loss nan .* training stopped"):
        run_training(recipe)


def test_by_default_a_run_stops(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, store, no_number, POISONED)
    recipe = make_recipe(store, tmp_path, **SETTINGS | {"on_spike": "stop"})
    with pytest.raises(ValueError, match=r"step 20 gave loss nan.*explain-step .* 20`, then try"):
        run_training(recipe)
    assert not (tmp_path / "skipped.json").exists()
    assert len(column(tmp_path, "loss")) == 20


def mistake_of(world: World, recipe: Recipe) -> str:
    """Be a rank of a run that ends by a mistake, or by the other's end; return what it says."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        train(recipe, world, Notice())
    return str(caught.value)


@pytest.mark.slow
def test_two_ranks_go_back_together(store: Path, tmp_path: Path) -> None:
    # A learning rate beyond all sense breaks every update: both ranks roll back until the bound.
    settings = SETTINGS | {"learning_rate": 1e25, "warmup_steps": 0, "max_rollbacks": 1}
    recipe = make_recipe(store, tmp_path / "run", **settings)
    first, _ = run_ranks(2, tmp_path / "meeting", mistake_of, recipe)
    assert "rolled back 1 times already" in first
    assert len(read_rollbacks(str(tmp_path / "run"))) == 1


def test_other_ranks_read_nothing_of_the_run_themselves(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "skipped.json"):
        (tmp_path / name).write_text("what another run left on this machine\n")
    other = World(1, 1, torch.device("cpu"))
    watch = watch_losses(str(tmp_path), Pretrain(), 5, other)
    assert watch.judge(2.0, 1.0) is None
    assert skipped_batches(str(tmp_path), (), other) == ()
