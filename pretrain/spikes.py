"""What a run does about a loss that is no number, or that leaps.

`pretrain.on_spike: stop` ends the run where the loss or the norm of the gradient is no number.
`skip` also looks for leaps, goes back to a checkpoint and goes on without the batches that led
there, as PaLM's authors did by hand (Chowdhery et al. 2022, section 5.1: restarted about 100 steps
before a spike and skipped the 200 to 500 batches around it; the same batches from another state did
no harm). A leap is a loss above

    median + max(`spike_sigmas` x 1.4826 x MAD, 0.1 nats)

of the last `spike_window_steps` losses, MAD being the median of the distances from the median.
OLMo-core's skip-step optimizer takes 128 losses and 6 standard deviations; median and MAD do the
same without being moved by the leap itself. All of it is in whole micro-nats, so that the same
losses give the same verdict.

The batch of the step whose loss leapt is left out, and those just before, whose updates the loss
shows (`spike_batches` in all). The list is part of the data plan, so it is in every later
checkpoint; `skipped.json` in the run says when and why. The rollback is a restart from the
checkpoint, in the same process: a run that was rolled back, one that was killed and one that is run
again take the same steps. Another world size rounds losses otherwise, in the seventh digit: only a
loss that lies so near the limit could be judged otherwise there.
"""

import logging
import math
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import orjson
from pydantic import Field

from corpus.files import write_bytes
from corpus.section import Section
from corpus.training import Pretrain
from pretrain.checkpoints import (
    SKIPPED,
    CheckpointState,
    list_checkpoints,
    read_carried,
    read_state,
    remove_checkpoint,
)
from pretrain.config import DataPlan
from pretrain.metrics import read_metrics
from pretrain.world import World

logger = logging.getLogger(__name__)

_MICRO = 10**6  # micro-nats of a nat
# Makes the MAD of normally distributed numbers their standard deviation: 1 / 0.6745.
_MAD_TO_SIGMA = 1.4826
# The losses of batches of 8,192 rows lie so near each other that six deviations are little; a guess
# at what is not worth a rollback.
_LEAST_LEAP = _MICRO // 10


class Spike(Section):
    """A step that went wrong."""

    step: int = Field(description="counted from 0")
    reason: str = Field(description="what its loss or gradient norm was, and what was the limit")
    plan: DataPlan = Field(description="what the run was made of then")


class WorstRow(Section):
    """A row of the batch whose loss leapt, judged alone by the weights gone back to."""

    sequence: int = Field(description="its number in the run")
    shard: str = Field(description="path of its shard in the store")
    row: int = Field(description="row of the shard")
    loss: float | None = Field(description="nats a label; null where it is no number")


class Rollback(Section):
    """A spike and what was done about it: an entry of skipped.json."""

    step: int = Field(description="step that went wrong, counted from 0")
    reason: str = Field(description="what was wrong")
    batches: tuple[int, ...] = Field(description="numbers of the batches left out since")
    sequences: tuple[tuple[int, int], ...] = Field(
        (), description="first and last sequence number of each of these batches"
    )
    went_back_to: int = Field(description="step that was taken next")
    worst: tuple[WorstRow, ...] = Field(
        (), description="rows of the last of these batches with the largest losses (guilty.py)"
    )


class LossWatch:
    """The last losses of a run, by which the next one is judged."""

    def __init__(self, config: Pretrain, losses: Sequence[float]) -> None:
        """Begin with the losses of the steps before."""
        self._sigmas = config.spike_sigmas if config.on_spike == "skip" else None
        self._losses = deque(losses, maxlen=config.spike_window_steps)

    def judge(self, loss: float, norm: float | None) -> str | None:
        """Say what is wrong with a step, or None; a good loss is remembered."""
        if not math.isfinite(loss) or (norm is not None and not math.isfinite(norm)):
            return f"loss {loss} and gradient norm {norm}"
        limit = self._limit()
        if limit is not None and round(loss * _MICRO) > limit:
            return f"loss {loss:.6f}, above the limit of {limit / _MICRO:.6f}"
        self._losses.append(loss)
        return None

    def _limit(self) -> int | None:
        if self._sigmas is None or len(self._losses) < (self._losses.maxlen or 0):
            return None
        return loss_limit(self._losses, self._sigmas)


def loss_limit(losses: Sequence[float], sigmas: float) -> int:
    """Give the largest loss that is no leap, in micro-nats.

    2.0, 2.1, 2.2, 2.3, 9.0 nats, 6 sigmas: median 2.2, distances 0.2, 0.1, 0, 0.1, 6.8, MAD 0.1
    -> 2,200,000 + 6 * 1.4826 * 100,000 = 3,089,560
    """
    micro = [round(loss * _MICRO) for loss in losses]
    middle = _median(micro)
    spread = _median([abs(loss - middle) for loss in micro])
    return middle + max(math.floor(sigmas * _MAD_TO_SIGMA * spread), _LEAST_LEAP)


def _median(values: Sequence[int]) -> int:
    """Give the middle one; of two the lower, which is a value and not a mean."""
    return sorted(values)[(len(values) - 1) // 2]


def watch_losses(run: str, config: Pretrain, first_step: int, world: World) -> LossWatch:
    """Start the watch of every rank with the losses that the first one finds recorded."""
    lines = read_metrics(run) if world.is_first else []  # a gigabyte where a long run ends
    recorded = [line["loss"] for line in lines if line["step"] < first_step]
    return LossWatch(config, _share(recorded[-config.spike_window_steps :], world))


def skipped_batches(run: str, known: Sequence[int], world: World) -> tuple[int, ...]:
    """List what a run leaves out, on every rank: by skipped.json, and by what `known` says."""
    listed = listed_batches(run) if world.is_first else ()
    shared = _share(sorted({*listed, *known}), world)
    return tuple(int(number) for number in shared)


def listed_batches(run: str) -> tuple[int, ...]:
    """List the numbers of the batches in skipped.json."""
    return tuple(sorted({one for rollback in read_rollbacks(run) for one in rollback.batches}))


def left_out_batches(run: str, newest: tuple[str, CheckpointState] | None) -> tuple[int, ...]:
    """List what a run left out, wherever it is told: here, in its newest checkpoint, by its steps.

    Of two steps in a row the second takes a batch after the next one where those between are left
    out.
    """
    found = {*listed_batches(run), *(newest[1].identity.plan.skipped_batches if newest else ())}
    taken: dict[int, int] = {-1: -1} | {line["step"]: line["batch"] for line in read_metrics(run)}
    for step, batch in taken.items():
        found |= {*range(taken.get(step - 1, batch) + 1, batch)}
    return tuple(sorted(found))


def known_rollbacks(
    told: Sequence[Rollback], newest: tuple[str, CheckpointState] | None
) -> tuple[Rollback, ...]:
    """Give the rollbacks that the newest checkpoint carries, then those told in the run alone."""
    carried = _parse(read_carried(*newest, SKIPPED) or b"[]") if newest else ()
    return (*carried, *(entry for entry in told if entry not in carried))


def restore_rollbacks(checkpoint: str, state: CheckpointState, run: str) -> None:
    """Fill up skipped.json in the run's directory with what a checkpoint says of it."""
    own = read_rollbacks(run)
    entries = list(known_rollbacks(own, (checkpoint, state)))
    told = {batch for entry in entries for batch in entry.batches}
    if missing := sorted({*state.identity.plan.skipped_batches} - told):
        reason = f"not known: the checkpoint of step {state.step} names the batches alone"
        lost = Rollback(
            step=state.step, reason=reason, batches=tuple(missing), went_back_to=state.step
        )
        entries.insert(0, lost)
    if tuple(entries) != own:
        write_rollbacks(run, entries)


def _share(numbers: Sequence[float], world: World) -> list[float]:
    """Give every rank the first one's numbers: run directories of other nodes may hold none."""
    count = int(world.sum_floats(len(numbers) if world.is_first else 0)[0])
    mine = list(numbers) if world.is_first else [0.0] * count
    return world.sum_floats(*mine) if count else []


def read_rollbacks(run: str) -> tuple[Rollback, ...]:
    """Read skipped.json; a run without it was never rolled back."""
    path = Path(run) / SKIPPED
    if not path.exists():
        return ()
    return _parse(path.read_bytes())


def _parse(data: bytes) -> tuple[Rollback, ...]:
    return tuple(Rollback.model_validate(entry) for entry in orjson.loads(data))


def write_rollbacks(run: str, rollbacks: Iterable[Rollback]) -> None:
    """Write skipped.json anew."""
    entries = [entry.model_dump() for entry in rollbacks]
    write_bytes(str(Path(run) / SKIPPED), orjson.dumps(entries, option=orjson.OPT_INDENT_2))


def stop_message(run: str, spike: Spike) -> str:
    """Say why a run stops."""
    return (
        f"step {spike.step} gave {spike.reason}: training stopped, the checkpoints before it are "
        f"whole; look at `python -m pretrain explain-step {run} {spike.step}`, then try a lower "
        "pretrain.learning_rate"
    )


def roll_back(run: str, root: str, config: Pretrain, spike: Spike) -> Rollback:
    """Leave out the batches that led to a spike; the run then goes on from a checkpoint before it.

    Called by one rank. Newer checkpoints go first and the list is written last: if it is killed in
    between, the run comes upon the spike again.
    """
    earlier = read_rollbacks(run)
    if len(earlier) >= config.max_rollbacks:
        raise ValueError(
            f"{stop_message(run, spike)}; this run was rolled back {len(earlier)} times already "
            f"(pretrain.max_rollbacks), see {Path(run) / SKIPPED}"
        )
    first_guilty = max(0, spike.step - config.spike_batches + 1)
    checkpoints = list_checkpoints(root)
    steps = [read_state(path).step for path in checkpoints]
    # Where none so old is left, the oldest has to do, and what it has taken in stays in it.
    target = max((step for step in steps if step <= first_guilty), default=min(steps, default=0))
    for path, step in zip(checkpoints, steps, strict=True):
        if step > target:
            remove_checkpoint(path)
    steps_left_out = range(max(first_guilty, target), spike.step + 1)
    guilty = [spike.plan.batch_of(step) for step in steps_left_out]
    rollback = Rollback(
        step=spike.step,
        reason=spike.reason,
        batches=tuple(place.number for place in guilty),
        sequences=tuple((place.first, place.first + place.sequences - 1) for place in guilty),
        went_back_to=target,
    )
    write_rollbacks(run, (*earlier, rollback))
    return rollback


def note_worst(run: str, rows: tuple[WorstRow, ...]) -> None:
    """Write into the last entry of skipped.json which rows are suspected; called by one rank."""
    *earlier, last = read_rollbacks(run)
    write_rollbacks(run, [*earlier, last.model_copy(update={"worst": rows})])
    shown = (f"sequence {each.sequence} ({each.loss or math.nan:.3f})" for each in rows)
    logger.warning("largest losses in nats a label, row by row: %s", ", ".join(shown))


def answer_spike(run: str, root: str, config: Pretrain, spike: Spike, world: World) -> None:
    """Stop, or leave batches out and let the run go on from a checkpoint, as the recipe says.

    `root` is where the run's checkpoints are.
    """
    if config.on_spike == "stop":
        raise ValueError(
            f"{stop_message(run, spike)}, or pretrain.on_spike=skip to go on without its batches"
        )
    world.wait()
    if world.is_first:
        rollback = roll_back(run, root, config, spike)
        logger.warning(
            "step %d gave %s: going back to step %d without batches %s (pretrain.on_spike)",
            rollback.step,
            rollback.reason,
            rollback.went_back_to,
            ", ".join(map(str, rollback.batches)),
        )
    world.wait()


def log_skipped(run: str) -> None:
    """Remind of what a finished run left out."""
    if listed := listed_batches(run):
        logger.warning(
            "%d batches were left out, see %s and `python -m pretrain explain-step %s --batch %d`",
            len(listed),
            Path(run) / SKIPPED,
            run,
            listed[0],
        )
