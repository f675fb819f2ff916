"""Any schedule of kills and resizes leaves every batch as it was; `benchmarks.kills` has more."""

import random
from pathlib import Path
from typing import Any

import pytest
from kill_helpers import (
    STEPS,
    Stretch,
    expected_hashes,
    find_ready,
    open_batches,
    prepare_ranks,
    random_plan,
    random_schedule,
    recipe_of,
    simulate,
    suffer,
    train_together,
)
from pretrain_helpers import check_same_steps, column

from corpus.recipe import Recipe
from pretrain.launch import run_training

WHOLE_TENSORS: dict[str, Any] = {"zero_stage": 0, "max_steps": 5, "checkpoint_every_steps": 5}


def test_random_schedules_leave_every_batch_as_it_was(store: Path, tmp_path: Path) -> None:
    total = 0
    for seed in range(15):
        rng = random.Random(seed)
        schedule, plan = random_schedule(rng), random_plan(rng)
        recipe = recipe_of(store, tmp_path / str(seed), seed, **plan)
        compared, wrong = simulate(schedule, recipe)
        assert wrong == 0, (seed, schedule)
        total += compared
    assert total > 15 * STEPS, "some steps were taken more than once"


def test_what_is_expected_is_what_a_run_records(store: Path, tmp_path: Path) -> None:
    recipe = recipe_of(store, tmp_path, seed=3)
    run_training(recipe)
    assert column(tmp_path, "batch_hash") == expected_hashes(open_batches(recipe))


def test_another_seed_is_told_apart(store: Path, tmp_path: Path) -> None:
    one, other = (open_batches(recipe_of(store, tmp_path, seed)) for seed in (0, 1))
    assert not set(expected_hashes(one)) & set(expected_hashes(other))


@pytest.mark.slow
def test_ranks_are_forked_from_a_process_that_is_ready() -> None:
    process = prepare_ranks().Process(target=find_ready)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.slow
def test_two_ranks_train_by_every_optimizer_as_one_does(store: Path, tmp_path: Path) -> None:
    recipes: dict[str, list[Recipe]] = {}
    for world in ("one", "two"):
        recipes[world] = [
            recipe_of(store, tmp_path / world / name, 3, optimizer=name, **WHOLE_TENSORS)
            for name in ("muon", "lamb", "stableadamw")
        ]
    train_together(recipes["two"], 2, prepare_ranks(), tmp_path / "meeting")
    for recipe, other in zip(*recipes.values(), strict=True):
        run_training(recipe)
        check_same_steps(Path(str(recipe.pretrain.run)), Path(str(other.pretrain.run)))


@pytest.mark.slow
def test_real_ranks_that_are_really_killed(store: Path, tmp_path: Path) -> None:
    schedule = [
        Stretch(world=2, stage=3, microbatch=2, end="one", steps=3),
        Stretch(world=1, stage=0, microbatch=3, end="told", steps=2),
        Stretch(world=3, stage=2, microbatch=1, end="all", steps=1),
    ]
    plan = random_plan(random.Random(5)) | {"batch_ramp": {"from_sequences": 3, "batches": 6}}
    recipe = recipe_of(store, tmp_path / "run", seed=5, **plan)
    compared, wrong = suffer(schedule, recipe, prepare_ranks(), random.Random(0))
    assert compared >= STEPS
    assert wrong == 0
