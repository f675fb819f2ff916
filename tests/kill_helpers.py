"""Random schedules of kills and resizes: what a run goes through before it ends.

`simulate` plays a schedule in this process: every rank's batches are really drawn and hashed and
checkpoints are really written and found again; only the model and the boundaries between processes
are missing, and none of them decides what a batch is. `suffer` plays it with real ranks that are
really killed. Both return how many hashes were compared, and how many differed.
"""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pretrain_helpers import make_recipe

from corpus.recipe import Recipe
from corpus.snapshots import open_snapshot
from pretrain.batches import HASH_BITS, Stream, hash_batches, open_stream
from pretrain.checkpoints import list_checkpoints, newest_checkpoint
from pretrain.config import Identity, data_plan, model_shape
from pretrain.launch import join
from pretrain.metrics import read_metrics
from pretrain.preemption import EXIT_STATUS, Notice, PreemptedError, listening
from pretrain.train import train
from pretrain.writer import CheckpointWriter

STEPS, BATCH = 12, 7
MAX_WORLD = 4
# How a stretch of a run ends: all ranks killed, one killed (the others fail by it), all told to end
# and writing a checkpoint, or killed before the last checkpoint was whole.
ENDS = ("all", "one", "told", "torn")
_PATIENCE_SECONDS = 300.0


@dataclass(frozen=True)
class Stretch:
    """Ranks that run until something ends them."""

    world: int
    stage: int
    microbatch: int
    end: str
    steps: int

    @property
    def settings(self) -> dict[str, Any]:
        """What the recipe says of it."""
        return {"zero_stage": self.stage, "microbatch_sequences": self.microbatch}


def random_schedule(rng: random.Random) -> list[Stretch]:
    """Draw one to four interruptions; what follows the last runs to the end."""
    return [
        Stretch(
            world=rng.randint(1, MAX_WORLD),
            stage=rng.randint(0, 3),
            microbatch=rng.randint(1, 5),
            end=rng.choice(ENDS),
            steps=rng.randint(1, 6),
        )
        for _ in range(rng.randint(2, 5))
    ]


def random_plan(rng: random.Random) -> dict[str, Any]:
    """Draw what else decides a batch: its size, its masks, its sources."""
    ramp = {"from_sequences": rng.randint(1, 2 * BATCH), "batches": rng.randint(1, STEPS)}
    return {
        "batch_ramp": rng.choice([None, ramp]),
        "mask_ramp": rng.choice([None, {"from_prob": 0.4, "steps": rng.randint(1, STEPS)}]),
        "masking": rng.choice(["fixed", "bernoulli", "whole-word", "span"]),
        "mixing": rng.choice([None, {"books": 1, "wiki": 3}]),
        "shuffle_shards": rng.choice([None, 1, 2]),
        "isolate_documents": rng.choice([False, True]),
    }


def recipe_of(store: Path, run: Path, seed: int, **settings: Any) -> Recipe:  # noqa: ANN401
    """A short run with checkpoints close together."""
    fixed: dict[str, Any] = {
        "max_steps": STEPS, "batch_sequences": BATCH, "checkpoint_every_steps": 2,
        "validate_every_steps": STEPS, "warmup_steps": 2, "seed": seed,
    }  # fmt: skip
    return make_recipe(store, run, **(fixed | settings))


def open_batches(recipe: Recipe) -> Stream:
    """Open what the ranks of a recipe draw from."""
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    return open_stream(recipe.store, snapshot, data_plan(recipe.pretrain, snapshot))


def global_hash(stream: Stream, step: int, world: int, microbatch: int) -> str:
    """Hash a global batch as the ranks of a world do together."""
    shares = stream.shares_at(step, world, microbatch)
    parts = [hash_batches(stream.train_batches(shares, step, rank)) for rank in range(world)]
    return f"{sum(parts) % (1 << HASH_BITS):064x}"


def expected_hashes(stream: Stream) -> list[str]:
    """Hash every batch of a run that one process takes without interruption."""
    return [global_hash(stream, step, 1, BATCH) for step in range(STEPS)]


def simulate(schedule: Sequence[Stretch], recipe: Recipe) -> tuple[int, int]:
    """Play a schedule in this process."""
    stream = open_batches(recipe)
    expected = expected_hashes(stream)
    compared = wrong = 0
    for at, stretch in enumerate(schedule):
        last = STEPS if at == len(schedule) - 1 else stretch.steps
        found = _simulate_stretch(stretch, recipe, stream, last)
        compared += len(found)
        wrong += sum(value != expected[step] for step, value in found)
    newest = newest_checkpoint(str(recipe.pretrain.run))
    assert newest is not None
    assert newest[1].step == STEPS
    return compared, wrong


def _simulate_stretch(
    stretch: Stretch, recipe: Recipe, stream: Stream, steps: int
) -> list[tuple[int, str]]:
    run, every = str(recipe.pretrain.run), recipe.pretrain.checkpoint_every_steps
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    identity = Identity(
        snapshot_label=snapshot.label,
        tokenizer=snapshot.tokenizer,
        model=model_shape("tiny", snapshot),
        plan=stream.plan,
    )
    newest = newest_checkpoint(run)
    first = newest[1].step if newest else 0
    last = min(STEPS, first + steps)
    writer = CheckpointWriter(run, recipe.pretrain, {})
    found = []
    for step in range(first, last):
        found.append((step, global_hash(stream, step, stretch.world, stretch.microbatch)))
        told = stretch.end == "told" and step + 1 == last
        if told or (step + 1) % every == 0 or step + 1 == STEPS:
            writer.save_checkpoint(step + 1, identity, {"w": {"weight": torch.zeros(1)}})
    writer.close()
    if stretch.end == "torn" and last < STEPS:
        for checkpoint in list_checkpoints(run)[-1:]:
            (Path(checkpoint) / "state.json").unlink()
    return found


def prepare_ranks() -> ForkServerContext:
    """Let ranks be forked from a process that has imported all they need, not started anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_helpers", "deepspeed"])
    # Its environment is theirs; this process keeps its own, as its threads decide roundings.
    with patch.dict(os.environ, {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}):
        forkserver.ensure_running()
    return context


def suffer(
    schedule: Sequence[Stretch], recipe: Recipe, context: ForkServerContext, rng: random.Random
) -> tuple[int, int]:
    """Play a schedule with real ranks."""
    run, expected = Path(str(recipe.pretrain.run)), expected_hashes(open_batches(recipe))
    compared = wrong = 0
    for at, stretch in enumerate(schedule):
        before = _metrics_file(run)
        ranks = _start(stretch, recipe, context, run.parent / f"{run.name}-meeting-{at}")
        if at < len(schedule) - 1:
            _interrupt(ranks, stretch, run, (before, rng))
        for rank in ranks:
            rank.join(_PATIENCE_SECONDS)
            assert rank.exitcode is not None, "a rank hangs"
        lines = read_metrics(str(run))
        compared += len(lines)
        wrong += sum(line["batch_hash"] != expected[line["step"]] for line in lines)
    assert [line["step"] for line in lines] == list(range(STEPS))
    return compared, wrong


def _start(
    stretch: Stretch, recipe: Recipe, context: ForkServerContext, meeting: Path
) -> list[BaseProcess]:
    config = recipe.pretrain.model_copy(update=stretch.settings)
    changed = recipe.model_copy(update={"pretrain": config}).model_dump(mode="json")
    ranks: list[BaseProcess] = [
        context.Process(
            target=be_rank, args=(changed, rank, stretch.world, str(meeting)), daemon=True
        )
        for rank in range(stretch.world)
    ]
    for rank in ranks:
        rank.start()
    return ranks


def _interrupt(
    ranks: Sequence[BaseProcess], stretch: Stretch, run: Path, given: tuple[int, random.Random]
) -> None:
    """End the ranks once they have taken some steps, at any moment of the next."""
    before, rng = given
    newest = newest_checkpoint(str(run))
    wanted = min(STEPS, (newest[1].step if newest else 0) + stretch.steps)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while _metrics_file(run) == before or len(read_metrics(str(run))) < wanted:
        if not all(rank.is_alive() for rank in ranks) or time.monotonic() > deadline:
            break
        time.sleep(0.005)
    time.sleep(rng.random() * 0.05)
    if stretch.end == "told":
        for rank in ranks:
            rank.terminate()
        return
    doomed = ranks if stretch.end != "one" else [rng.choice(ranks)]
    for rank in doomed:
        rank.kill()
    if stretch.end == "one":  # the others see it and fail; a launcher would end them
        time.sleep(rng.random() * 0.2)
        for rank in ranks:
            rank.kill()


def _metrics_file(run: Path) -> int:
    """Tell one metrics file from the next: a run that goes on begins with a new one."""
    path = run / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else 0


def be_rank(recipe: dict[str, Any], rank: int, size: int, meeting: str) -> None:
    """Be one rank."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)  # ranks whose partner was killed say so at length
    with listening():
        try:
            train(Recipe.model_validate(recipe), join(rank, size, rank, Path(meeting)), Notice())
        except PreemptedError:
            raise SystemExit(EXIT_STATUS) from None
