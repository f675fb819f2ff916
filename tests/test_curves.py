"""The benchmark of loss curves, bounded: the worlds that other tests leave out."""

from pathlib import Path

import pytest

from benchmarks.curves import losses_of, plain_losses, recipe_for, widest

STEPS = 12


@pytest.fixture(scope="module")
def plain(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return plain_losses(recipe_for(str(store), tmp_path_factory.mktemp("none"), STEPS))


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stage"), [(3, 3), (4, 2)])
def test_three_and_four_processes_follow_the_plain_loop(
    store: Path, plain: list[float], tmp_path: Path, processes: int, stage: int
) -> None:
    settings = {"processes": processes, "zero_stage": stage}
    losses = losses_of(recipe_for(str(store), tmp_path / "run", STEPS, **settings))
    assert len(losses) == STEPS
    assert widest(losses, plain) < 1e-5
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
