"""Which rows of a batch surprise the model most: what a spike is traced to.

After a rollback the weights are those from before the spike, so each row of the batch whose loss
leapt is judged alone, without dropout, under the masks that it had. Costs a forward pass a row and
happens once a rollback. It tells where to look and decides nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from pretrain.batches import Batch, Stream
from pretrain.engine import Engine
from pretrain.spikes import Spike, WorstRow
from pretrain.world import World

_ROWS = 3  # as many as `explain-step` shows


def worst_rows(
    engine: Engine, stream: Stream, world: World, spike: Spike, max_microbatch: int
) -> tuple[WorstRow, ...]:
    """Find the rows of the batch of a spike with the largest losses; every rank takes part."""
    then = replace(stream, plan=spike.plan)
    shares = then.shares_at(spike.step, world.size, max_microbatch)
    batches = then.train_batches(shares, spike.step, world.rank)
    sequences = spike.plan.batch_of(spike.step).sequences
    losses, rows = np.zeros(sequences), np.zeros(sequences)
    places = shares.offsets(world.rank).ravel()
    for place, one in zip(places.tolist(), single_rows(batches), strict=True):
        loss = float(engine.evaluate(one))  # surplus rows too: ranks compute in step
        if place >= 0:
            losses[place], rows[place] = loss / max(1, one.label_count), one.rows[0]
    found = world.sum_floats(*losses.tolist(), *rows.tolist())
    losses, rows = np.array(found[:sequences]), np.array(found[sequences:])
    # What is no number is the worst there can be.
    order = np.argsort(-np.where(np.isfinite(losses), losses, math.inf), kind="stable")
    first = spike.plan.batch_of(spike.step).first
    return tuple(
        _describe(stream, first + at, int(rows[at]), float(losses[at]))
        for at in order[:_ROWS].tolist()
    )


def single_rows(batches: Sequence[Batch]) -> list[Batch]:
    """Cut microbatches into single rows."""
    rows = []
    for batch in batches:
        values = {field.name: getattr(batch, field.name) for field in fields(Batch)}
        for at in range(len(batch.rows)):
            kept = {name: value[at : at + 1] for name, value in values.items() if value is not None}
            rows.append(Batch(**kept))
    return rows


def _describe(stream: Stream, sequence: int, row: int, loss: float) -> WorstRow:
    shard, local = stream.train.locate(row)
    told = loss if math.isfinite(loss) else None
    return WorstRow(sequence=sequence, shard=shard.path, row=local, loss=told)
