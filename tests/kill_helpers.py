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
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import wait
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
_EARLY = 0.25  # of the interruptions come while the ranks start
_START_SECONDS, _STEP_SECONDS = 1.5, 0.2  # about as long as either takes on two idle cores
# With what a rank may end. A stretch may be done before it is interrupted; the signal itself ends a
# rank that does not listen yet or any more, and the launcher then kills the others; a rank whose
# partner was killed fails.
_EXITS = {
    "done": {0},
    "all": {0, -signal.SIGKILL},
    "torn": {0, -signal.SIGKILL},
    "told": {0, EXIT_STATUS, -signal.SIGTERM, -signal.SIGKILL},
    "one": {0, 1, -signal.SIGKILL},
}


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
        _tear_newest(Path(run))
    return found


def prepare_ranks() -> ForkServerContext:
    """Let ranks be forked from a process that has imported all they need, not started anew."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_nursery"])
    # Its environment is theirs; this process keeps its own, as its threads decide roundings. It is
    # told where modules lie, and would go on in silence without what it does not find (3.11).
    path = os.pathsep.join(sys.path)
    given = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": path}
    with patch.dict(os.environ, given):
        forkserver.ensure_running()
    return context


def find_ready() -> None:
    """End well where all that a rank needs was there when this process was forked."""
    sys.exit("kill_nursery" not in sys.modules)


def suffer(
    schedule: Sequence[Stretch], recipe: Recipe, context: ForkServerContext, rng: random.Random
) -> tuple[int, int]:
    """Play a schedule with real ranks."""
    run, expected = Path(str(recipe.pretrain.run)), expected_hashes(open_batches(recipe))
    compared = wrong = 0
    for at, stretch in enumerate(schedule):
        before, first = _metrics_file(run), _newest_step(run)
        meeting = run.parent / f"{run.name}-meeting-{at}"
        ranks = _start(stretch, recipe, context, meeting)
        end = stretch.end if at < len(schedule) - 1 else "done"
        if end != "done":
            _interrupt(ranks, stretch, run, (before, rng))
        _see_them_end(ranks, end, meeting)
        if _metrics_file(run) != before:
            taken = [line for line in read_metrics(str(run)) if line["step"] >= first]
            compared += len(taken)
            wrong += sum(line["batch_hash"] != expected[line["step"]] for line in taken)
        if end == "torn" and _newest_step(run) < STEPS:
            _tear_newest(run)
    assert [line["step"] for line in read_metrics(str(run))] == list(range(STEPS))
    return compared, wrong


def _newest_step(run: Path) -> int:
    newest = newest_checkpoint(str(run))
    return newest[1].step if newest else 0


def _tear_newest(run: Path) -> None:
    """Leave of the newest checkpoint what a kill would have left before it was whole."""
    for checkpoint in list_checkpoints(str(run))[-1:]:
        (Path(checkpoint) / "state.json").unlink()


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
    """End the ranks at any moment: while they start, or once they have taken some steps."""
    before, rng = given
    if rng.random() < _EARLY:
        time.sleep(rng.random() * _START_SECONDS)
    else:
        _await_steps(ranks, run, before, min(STEPS, _newest_step(run) + stretch.steps))
        time.sleep(rng.random() * _STEP_SECONDS)
    if stretch.end == "told":
        for rank in ranks:
            rank.terminate()
        return
    doomed = ranks if stretch.end != "one" else [rng.choice(ranks)]
    for rank in doomed:
        rank.kill()
    if stretch.end == "one":  # the others see it and fail; a launcher would end them
        time.sleep(rng.random() * _STEP_SECONDS)
        for rank in ranks:
            rank.kill()


def _await_steps(ranks: Sequence[BaseProcess], run: Path, before: int, wanted: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while _metrics_file(run) == before or len(read_metrics(str(run))) < wanted:
        assert time.monotonic() < deadline, "the ranks take no steps"
        if not all(rank.is_alive() for rank in ranks):
            break
        time.sleep(0.02)


def _see_them_end(ranks: Sequence[BaseProcess], end: str, meeting: Path) -> None:
    """Wait for all ranks as a launcher does; none may hang, or end as it was not made to."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < deadline:
        if any(rank.exitcode not in (None, 0, EXIT_STATUS) for rank in ranks):
            for rank in ranks:
                rank.kill()
        wait([rank.sentinel for rank in ranks if rank.is_alive()], timeout=1.0)
    for at, rank in enumerate(ranks):
        if rank.exitcode not in _EXITS[end]:
            said = _said(meeting, at).read_text()
            raise AssertionError(f"rank {at} of {len(ranks)}, {end}: {rank.exitcode}, {said}")


def _said(meeting: Path, rank: int) -> Path:
    """Name the file that keeps what a rank says."""
    return meeting.with_name(f"{meeting.name}-{rank}.txt")


def _metrics_file(run: Path) -> int:
    """Tell one metrics file from the next: a run that goes on begins with a new one."""
    path = run / "metrics.jsonl"
    return path.stat().st_ino if path.exists() else 0


def train_together(
    recipes: Sequence[Recipe], size: int, context: ForkServerContext, meeting: Path
) -> None:
    """Train one recipe after another, each with real ranks; every rank begins once for all."""
    given = [recipe.model_dump(mode="json") for recipe in recipes]
    ranks: list[BaseProcess] = [
        context.Process(target=be_rank_of_all, args=(given, rank, size, str(meeting)), daemon=True)
        for rank in range(size)
    ]
    for rank in ranks:
        rank.start()
    _see_them_end(ranks, "done", meeting)


def be_rank_of_all(recipes: list[dict[str, Any]], rank: int, size: int, meeting: str) -> None:
    """Be one rank of several runs."""
    for recipe in recipes:
        be_rank(recipe, rank, size, meeting)


def be_rank(recipe: dict[str, Any], rank: int, size: int, meeting: str) -> None:
    """Be one rank."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _said(Path(meeting), rank).open("wb") as said:
        os.dup2(said.fileno(), 2)  # ranks whose partner was killed say so at length
    with listening():
        try:
            train(Recipe.model_validate(recipe), join(rank, size, rank, Path(meeting)), Notice())
        except PreemptedError:
            raise SystemExit(EXIT_STATUS) from None
