"""Which rows a spike is traced to, in worlds of any size."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pretrain_helpers import make_recipe

from corpus.snapshots import open_snapshot
from pretrain.batches import Batch, open_stream
from pretrain.config import data_plan
from pretrain.guilty import worst_rows
from pretrain.spikes import Spike, WorstRow
from pretrain.world import World

STEP = 4
# The plan at the spike leaves batch 2 out, so step 4 takes batch 5 of ten sequences.
LOSSES = {50: 3.0, 51: 9.0, 52: 3.5, 55: math.nan, 57: math.inf, 59: 8.0}


@dataclass(frozen=True)
class Rank(World):
    """A rank among others that are called one after another: what they have said is added up."""

    said: list[list[float]] = field(default_factory=list)

    def sum_floats(self, *values: float) -> list[float]:
        self.said.append(list(values))
        return [sum(column) for column in zip(*self.said, strict=True)]


def evaluate(batch: Batch) -> torch.Tensor:
    """Give the sum of losses that a row is to have; what has no labels has none."""
    assert len(batch.rows) == 1
    return torch.tensor(LOSSES.get(int(batch.numbers[0]), 2.0) * batch.label_count)


@pytest.mark.parametrize(("world", "microbatch"), [(1, 10), (1, 3), (3, 2), (4, 1)])
def test_the_worst_rows_are_found_in_any_world(store: Path, world: int, microbatch: int) -> None:
    snapshot = open_snapshot(str(store))
    config = make_recipe(store, store, batch_sequences=10).pretrain
    stream = open_stream(str(store), snapshot, data_plan(config, snapshot, (2, 7)))
    spike = Spike(step=STEP, reason="leap", plan=data_plan(config, snapshot, (2,)))
    engine: Any = SimpleNamespace(evaluate=evaluate)
    said: list[list[float]] = []
    found: tuple[WorstRow, ...] = ()
    for rank in range(world):
        mine = Rank(rank, world, torch.device("cpu"), said)
        found = worst_rows(engine, stream, mine, spike, microbatch)
    assert [row.sequence for row in found] == [55, 57, 51]
    assert [row.loss for row in found] == [None, None, pytest.approx(9.0)]
    for row in found:
        number = int(stream.order.places(torch.tensor([row.sequence]).numpy()).rows[0])
        shard, local = stream.train.locate(number)
        assert (row.shard, row.row) == (shard.path, local)
