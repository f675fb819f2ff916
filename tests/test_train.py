"""A run is the same whatever it runs on, and however often it was killed."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from pretrain_helpers import (
    SHARDS,
    column,
    make_recipe,
    start_training,
    wait_for_steps,
    write_snapshot,
)

from corpus.recipe import Recipe
from corpus.snapshots import open_snapshot, snapshot_root
from pretrain import train as training
from pretrain.batches import open_stream
from pretrain.checkpoints import list_checkpoints
from pretrain.config import data_plan, learning_rate_at, model_shape
from pretrain.dataset import Shares
from pretrain.launch import run_training
from pretrain.model import MaskedLanguageModel, decays

STEPS = 100
# A batch that two ranks do not divide, in microbatches that differ with the world.
LONG = {
    "max_steps": STEPS,
    "batch_sequences": 7,
    "microbatch_sequences": 3,
    "warmup_steps": 10,
    "checkpoint_every_steps": 25,
    "validate_every_steps": 50,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    write_snapshot(root)
    return root


@pytest.fixture(scope="module")
def uninterrupted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, stage 1, 100 steps, never killed."""
    run = tmp_path_factory.mktemp("uninterrupted")
    run_training(make_recipe(store, run, **LONG))
    return run


def widest(one: list[float], other: list[float]) -> float:
    assert len(one) == len(other)
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def test_losses_equal_a_plain_loop_without_deepspeed(store: Path, uninterrupted: Path) -> None:
    config = make_recipe(store, uninterrupted, **LONG).pretrain
    snapshot = open_snapshot(str(store))
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot))
    model = MaskedLanguageModel(model_shape("tiny", snapshot), 0.0, config.seed)
    named = list(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in named if decays(n)], "weight_decay": 0.01},
            {"params": [p for n, p in named if not decays(n)], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    losses = []
    for step in range(STEPS):
        (batch,) = stream.train_batches(Shares(7, 1, 7), step, rank=0)
        loss = model(batch.inputs, batch.lengths, batch.slots, batch.labels) / batch.label_count
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(config, step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert widest(losses, column(uninterrupted, "loss")) < 1e-5


def test_the_first_loss_is_the_logarithm_of_the_vocabulary(uninterrupted: Path) -> None:
    assert abs(column(uninterrupted, "loss")[0] - math.log(267)) < 0.1


def test_the_loss_falls(uninterrupted: Path) -> None:
    losses = column(uninterrupted, "loss")
    assert sum(losses[-10:]) / 10 < losses[0] - 0.5


@pytest.mark.slow
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_killed_run_goes_on_bit_for_bit(store: Path, tmp_path: Path, dropout: float) -> None:
    settings: dict[str, Any] = LONG | {
        "max_steps": 30, "checkpoint_every_steps": 10, "dropout": dropout,
    }  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_training(make_recipe(store, whole, **settings))

    process = start_training(make_recipe(store, killed, **settings), tmp_path / "recipe.yaml")
    wait_for_steps(process, killed, 13)
    process.kill()
    process.communicate()
    before = len(column(killed, "loss"))
    assert 13 <= before < 30
    run_training(make_recipe(store, killed, **settings))
    for name in ("loss", "gradient_norm", "batch_hash", "learning_rate"):
        assert column(killed, name) == column(whole, name), name
    final = [(run / "checkpoints/step-00000030/model.safetensors") for run in (whole, killed)]
    assert final[0].read_bytes() == final[1].read_bytes()


@pytest.mark.slow
def test_other_worlds_and_stages_take_the_same_steps(
    store: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    layouts = [(2, 1, 25), (1, 2, 50), (2, 3, 75), (1, 0, None)]
    for processes, stage, stop_after in layouts:
        recipe = make_recipe(store, run, processes=processes, zero_stage=stage, **LONG)
        process = start_training(recipe, tmp_path / "recipe.yaml")
        if stop_after is not None:
            wait_for_steps(process, run, stop_after + 2)
            ranks = psutil.Process(process.pid).children(recursive=True)
            assert len(ranks) >= processes - 1
            process.kill()
            process.communicate()
            # Nobody is left behind when the parent is killed.
            assert psutil.wait_procs(ranks, timeout=20)[1] == []
        else:
            assert process.wait(120) == 0, process.communicate()[1]
            process.communicate()
    assert column(run, "batch_hash") == column(uninterrupted, "batch_hash")
    assert column(run, "labels") == column(uninterrupted, "labels")
    assert widest(column(run, "loss"), column(uninterrupted, "loss")) < 1e-5
    ends = [[line for line in training_validations(one)] for one in (run, uninterrupted)]
    assert widest(*ends) < 1e-5


def training_validations(run: Path) -> list[float]:
    from pretrain.metrics import read_metrics  # noqa: PLC0415

    return [line["validation_loss"] for line in read_metrics(str(run)) if "validation_loss" in line]
