"""The benchmark of loss curves, bounded: the worlds that other tests leave out."""

from pathlib import Path

import pytest
from pretrain_helpers import column
from rank_helpers import run_ranks

from benchmarks.curves import losses_of, plain_losses, recipe_for, widest
from corpus.recipe import Recipe
from pretrain.preemption import Notice
from pretrain.train import train
from pretrain.world import World

STEPS = 12


def be_rank(world: World, recipe: Recipe) -> None:
    train(recipe, world, Notice())


@pytest.mark.slow
def test_four_processes_follow_the_plain_loop(store: Path, tmp_path: Path) -> None:
    recipe = recipe_for(str(store), tmp_path / "run", STEPS, zero_stage=3)
    run_ranks(4, tmp_path / "meeting", be_rank, recipe)
    losses = column(tmp_path / "run", "loss")
    assert len(losses) == STEPS
    assert widest(losses, plain_losses(recipe)) < 1e-5
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "lamb", "stableadamw"])
def test_every_optimizer_follows_the_plain_loop(
    store: Path, tmp_path: Path, optimizer: str
) -> None:
    settings = {"zero_stage": 0, "optimizer": optimizer, "microbatch_sequences": 2}
    recipe = recipe_for(str(store), tmp_path / "run", STEPS, **settings)
    expected = plain_losses(recipe)
    assert widest(losses_of(recipe), expected) < 1e-5
    assert expected[-1] < expected[0] - 0.05
