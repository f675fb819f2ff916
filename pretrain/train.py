"""The training run of one rank: open the snapshot, go on where the run stopped, take the steps.

The same function runs in one process, in several of this machine and under torchrun (launch.py);
all it knows of the other ranks is its `World`. What decides a number is set anew at each step from
(seed, step): batch, masks, dropout, learning rate. So a run that was killed and goes on from a
checkpoint takes the same steps, on CPUs bit for bit in the same layout.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from corpus.files import is_remote, try_lock, write_bytes
from corpus.recipe import Recipe
from corpus.snapshots import open_snapshot, overdue_takedowns
from corpus.training import Pretrain
from pretrain.batches import HASH_BITS, Batch, Stream, hash_batches, open_stream
from pretrain.checkpoints import RECIPE, load_training_state, restore_metrics
from pretrain.config import Identity, data_plan, learning_rate_at
from pretrain.dataset import Shares, derive_keys, verify_shards
from pretrain.engine import Engine, deepspeed_config, pair_count
from pretrain.flops import attended_pairs, device_name, peak_flops, train_flops
from pretrain.guilty import worst_rows
from pretrain.initial import read_start
from pretrain.memory import parameter_count
from pretrain.metrics import Reporter, perplexity
from pretrain.model import is_exported, make_model
from pretrain.preemption import Notice, PreemptedError
from pretrain.prefetch import Prefetch
from pretrain.resume import (
    changes_since,
    checkpoint_root,
    find_newest,
    identify,
    run_directory,
    tell_of_changes,
)
from pretrain.spikes import (
    Spike,
    answer_spike,
    log_skipped,
    note_worst,
    read_rollbacks,
    restore_rollbacks,
    skipped_batches,
    watch_losses,
)
from pretrain.trackers import check_trackers, open_trackers
from pretrain.world import World
from pretrain.writer import CheckpointWriter, check_shared

logger = logging.getLogger(__name__)

_DROPOUT_DOMAIN = 4
_LOCK_PATIENCE_SECONDS = 10.0  # the ranks of a killed run need a moment to end


class RunInUseError(ValueError):
    """Another process holds the lock of the run."""


@dataclass(frozen=True)
class Session:
    """What a rank holds while it trains."""

    recipe: Recipe
    identity: Identity
    stream: Stream
    engine: Engine
    world: World
    writer: CheckpointWriter | None  # on the first rank

    @property
    def config(self) -> Pretrain:
        """The training section of the recipe."""
        return self.recipe.pretrain


def train(recipe: Recipe, world: World, notice: Notice) -> None:
    """Train until the last step or a notice, from the newest checkpoint if there is one."""
    run = run_directory(recipe)
    with _sole_user(run, world):
        spike = None
        while spike := _train_until_spike(recipe, world, notice, spike):
            answer_spike(run, checkpoint_root(recipe), recipe.pretrain, spike, world)
        if world.is_first:
            log_skipped(run)
            logger.info("complete: `python -m pretrain export %s DIRECTORY` makes it a model", run)


def _train_until_spike(
    recipe: Recipe, world: World, notice: Notice, last: Spike | None
) -> Spike | None:
    """Go on to the last step, or to one that goes wrong; nothing is held in memory afterwards.

    `last` is what the run has just gone back from.
    """
    session, first_step = _open_session(recipe, world)
    try:
        if last is not None:
            size = session.config.microbatch_sequences
            rows = worst_rows(session.engine, session.stream, world, last, size)
            if world.is_first:
                note_worst(run_directory(recipe), rows)
        spike = _take_steps(session, first_step, notice)
    except PreemptedError:
        session.engine.close()
        raise
    finally:
        if session.writer:
            session.writer.close()
    session.engine.close()
    session.stream.close()
    return spike


def _take_steps(session: Session, first_step: int, notice: Notice) -> Spike | None:
    config, run = session.config, run_directory(session.recipe)
    active, peak = session.world.is_first, _peak(session)
    trackers = open_trackers(config, run, first_step) if active else []
    watch = watch_losses(run, config, first_step, session.world)
    rollbacks = len(read_rollbacks(run)) if active else 0
    with (
        Reporter(run, first_step, config.max_steps, active, peak, trackers) as reporter,
        closing(Prefetch(partial(_draw, session), config.max_steps)) as drawn,
    ):
        for step in range(first_step, config.max_steps):
            _tell_of_checkpoint(session, reporter)
            values = _take_step(session, step, drawn)
            if reason := watch.judge(values["loss"], values["gradient_norm"]):
                return Spike(step=step, reason=reason, plan=session.identity.plan)
            if _is_due(config, step, config.validate_every_steps):
                values |= _validate(session)
            reporter.report(step, values | {"rollbacks": rollbacks})
            told = step + 1 < config.max_steps and notice.arrives(session.world)
            if told or _is_due(config, step, config.checkpoint_every_steps):
                reporter.note(_checkpoint(session, step + 1))
            if told:
                _tell_of_checkpoint(session, reporter, wait=True)
                notice.answer(step + 1)
        _tell_of_checkpoint(session, reporter, wait=True)
    return None


def _tell_of_checkpoint(session: Session, reporter: Reporter, wait: bool = False) -> None:
    """Say that a checkpoint is written, or raise what went wrong with it."""
    news = session.writer.news(wait) if session.writer else None
    if news:
        reporter.note(news)


def _is_due(config: Pretrain, step: int, every_steps: int) -> bool:
    return step + 1 == config.max_steps or (step + 1) % every_steps == 0


def _draw(session: Session, step: int) -> tuple[list[Batch], int]:
    """Draw this rank's microbatches of a step, with their hash."""
    batches = session.stream.train_batches(_shares(session, step), step, session.world.rank)
    return batches, hash_batches(batches)


def _shares(session: Session, step: int) -> Shares:
    return session.stream.shares_at(step, session.world.size, session.config.microbatch_sequences)


def _take_step(
    session: Session, step: int, drawn: Prefetch[tuple[list[Batch], int]]
) -> dict[str, Any]:
    """Make one update on global batch `step` and give its numbers."""
    config, world, engine = session.config, session.world, session.engine
    learning_rate = learning_rate_at(config, step)
    start = time.monotonic()
    batches, batch_hash = drawn.take(step)
    labels, tokens, pairs, attended, waited = world.sum_floats(
        sum(batch.label_count for batch in batches),
        sum(batch.token_count for batch in batches),
        sum(map(pair_count, batches)),
        sum(map(attended_pairs, batches)),
        drawn.wait_seconds,
    )
    engine.set_learning_rate(learning_rate)
    engine.begin_step(_shares(session, step))
    sums = [
        engine.train(batch, int(labels), _dropout_seed(session, step, at), int(pairs))
        for at, batch in enumerate(batches)
    ]
    columns = zip(*(each.tolist() for each in sums), strict=True)
    loss_sum, *pair_sum = world.sum_floats(*map(math.fsum, columns))
    loss = loss_sum / max(1.0, labels)
    pair_loss = {"next_sentence_loss": pair_sum[0] / max(1.0, pairs)} if pair_sum else {}
    plan = session.identity.plan
    return {
        "loss": loss,
        **pair_loss,
        "learning_rate": learning_rate,
        "gradient_norm": engine.gradient_norm(),
        "skipped_steps": engine.skipped_steps(),
        "batch": plan.batch_of(step).number,
        "skipped_batches": len(plan.skipped_batches),
        "labels": int(labels),
        "tokens": int(tokens),
        "flops": train_flops(session.identity.model, int(tokens), int(attended), int(labels)),
        "data_wait_seconds": round(waited / world.size, 6),
        "batch_hash": f"{world.sum_integer(batch_hash, HASH_BITS):064x}",
        "seconds": round(time.monotonic() - start, 6),
    }


def _peak(session: Session) -> float | None:
    """Give what all devices together can do, in operations a second; None if one is unknown."""
    world = session.world
    mine = peak_flops(device_name(world.device), session.config.precision)
    total, known = world.sum_floats(mine or 0.0, mine is not None)
    return total if known == world.size else None


def _dropout_seed(session: Session, step: int, microbatch: int) -> int:
    counters = (np.array([value]) for value in (step, microbatch, session.world.rank))
    key = derive_keys(session.config.seed, _DROPOUT_DOMAIN, *counters)
    return int(key[0]) >> 1


def _validate(session: Session) -> dict[str, float]:
    """Give the mean loss over the validation labels, the same for any world size."""
    rows = min(session.config.validation_sequences, session.stream.validation.count)
    if rows == 0:
        return {}
    shares = Shares(rows, session.world.size, session.config.microbatch_sequences)
    loss_sum, labels = 0.0, 0
    for batch in session.stream.validation_batches(shares, session.world.rank):
        loss_sum += float(session.engine.evaluate(batch))
        labels += batch.label_count
    loss_sum, global_labels = session.world.sum_floats(loss_sum, labels)
    loss = loss_sum / max(1.0, global_labels)
    return {"validation_loss": loss, "perplexity": perplexity(loss)}


def _checkpoint(session: Session, step: int) -> str:
    """Gather the state by name on every rank, let the first begin to write it, and say so."""
    start = time.monotonic()
    waited = session.writer.wait_for_checkpoint() if session.writer else 0.0
    gathered = {}
    for name, tensors in session.engine.gather_state():
        if session.writer:
            gathered[name] = tensors
    if session.writer:
        session.writer.save_checkpoint(step, session.identity, gathered)
    held_up = time.monotonic() - start
    return (
        f"checkpoint of step {step:,} is being written: the step was held up {held_up:.2f} s, "
        f"{waited:.2f} s of it by the one before"
    )


def _open_session(recipe: Recipe, world: World) -> tuple[Session, int]:
    """Open data, model and checkpoint; return them with the step to take next."""
    config, run, root = recipe.pretrain, run_directory(recipe), checkpoint_root(recipe)
    if world.is_first:
        check_trackers(config.trackers)
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    newest = find_newest(run, root, world)
    changed = changes_since(newest[1], config) if newest else {}
    known = newest[1].identity.plan.skipped_batches if newest else ()
    plan = data_plan(config, snapshot, skipped_batches(run, known, world))
    stream = open_stream(recipe.store, snapshot, plan, config)
    identity = identify(config, snapshot, stream.plan, stream.has_pairs, newest)
    if config.cache is None or not is_remote(recipe.store):  # a cache verifies what it takes
        verify_shards(recipe.store, snapshot, world.rank, world.size)
    if stream.validation.count == 0 and world.is_first:
        logger.warning("snapshot %s has no validation sequences: none is made", snapshot.label)
    shares = Shares(config.batch_sequences, world.size, config.microbatch_sequences)
    world.wait()
    writer = None
    if world.is_first:
        _write_json(run, RECIPE, recipe.model_dump(mode="json"))
        parameters = parameter_count(identity.model)
        _write_json(run, "deepspeed.json", deepspeed_config(config, shares, parameters))
        logger.info(
            "snapshot %s (%.12s): preset %s, %s parameters, rank 0 of %d on %s, %s steps",
            snapshot.label, snapshot.fingerprint, config.preset, f"{parameters:,}", world.size,
            device_name(world.device) or world.device.type, f"{config.max_steps:,}",
        )  # fmt: skip
        if overdue := overdue_takedowns(recipe.store, snapshot):
            logger.warning("%s", overdue)
        writer = CheckpointWriter(root, config, recipe.model_dump(mode="json"))
        if newest:
            restore_metrics(*newest, run)
            restore_rollbacks(*newest, run)
            tell_of_changes(newest, config, run, changed)
    check_shared(root, writer, world)
    model = make_model(identity.model, config)
    state = load_training_state(*newest) if newest else None
    if state:
        model.load_state_dict({name: kinds["weight"] for name, kinds in state.items()})
    elif config.init_from and identity.start:
        wanted = {name: one for name, one in model.named_parameters() if is_exported(name)}
        start = read_start(config.init_from, identity.start, wanted)
        model.load_state_dict(start, strict=False)  # a next-sentence head begins anew
    engine = Engine(model, config, shares, world)
    first_step = newest[1].step if newest else 0
    if state:
        engine.restore_state(state, first_step)
    return Session(recipe, identity, stream, engine, world, writer), first_step


def _write_json(run: str, name: str, values: dict[str, Any]) -> None:
    data = orjson.dumps(values, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)
    write_bytes(str(Path(run) / name), data)


@contextmanager
def _sole_user(run: str, world: World) -> Iterator[None]:
    """Hold the run's lock, which ends with this process however it ends."""
    if not world.is_first:
        yield
        return
    Path(run).mkdir(parents=True, exist_ok=True)
    with (Path(run) / "lock").open("wb") as stream:
        deadline = time.monotonic() + _LOCK_PATIENCE_SECONDS
        while not try_lock(stream):
            if time.monotonic() > deadline:
                raise RunInUseError(
                    f"another process trains in {run}: wait for it or take another pretrain.run"
                )
            time.sleep(0.2)
        yield
