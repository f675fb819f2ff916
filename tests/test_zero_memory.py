"""With two processes each rank holds half of what its ZeRO stage divides."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from pretrain_helpers import make_recipe
from rank_helpers import run_ranks
from torch import nn

from corpus.snapshots import open_snapshot
from corpus.training import Pretrain
from pretrain.batches import open_stream
from pretrain.config import data_plan, model_shape
from pretrain.dataset import Shares
from pretrain.engine import Engine
from pretrain.model import make_model
from pretrain.optimizers import make_optimizer
from pretrain.world import World

RANKS = 2


def held_bytes(world: World, store: str, stage: int) -> dict[str, int]:
    """Train a step of two microbatches and measure what this rank holds, in bytes.

    Parameters outside of forward and backward, gradients between two microbatches, moments after
    the update; gradients where each stage keeps them in DeepSpeed 0.19.8.
    """
    shares = Shares(8, world.size, 2)
    config = make_recipe(
        Path(store), Path(store), zero_stage=stage, batch_sequences=8, microbatch_sequences=2
    ).pretrain
    snapshot = open_snapshot(store)
    stream = open_stream(store, snapshot, data_plan(config, snapshot))
    engine = Engine(make_model(model_shape("tiny", snapshot), config), config, shares, world)
    first, *others = stream.train_batches(shares, 0, world.rank)
    assert others
    engine.train(first, global_labels=50, dropout_seed=0)
    zero, parameters = engine._engine.optimizer, list(engine._parameters.values())
    held = {
        "gradients": sum(size_of(each.grad) for each in parameters),
        "parameters": sum(size_of(getattr(each, "ds_tensor", each)) for each in parameters),
    }
    for attribute in ("all_grad_tensors", "grad_partitions_flat_buffer"):  # stages 2 and 3
        held["gradients"] += size_of(getattr(zero, attribute, None))
    for batch in others:
        engine.train(batch, global_labels=50, dropout_seed=0)
    states = engine._engine.basic_optimizer.state.values()
    held["moments"] = sum(
        size_of(value) for state in states for kind, value in state.items() if kind != "step"
    )
    return held


def size_of(value: Any) -> int:  # noqa: ANN401
    """Bytes of a tensor, of the tensors in a list or mapping, or of nothing."""
    if value is None:
        return 0
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(size_of, value))
    return int(value.numel() * value.element_size())


def whole_gradients(config: Pretrain, model: nn.Module, rank: int) -> int:
    """Count the bytes that stage 2 keeps between microbatches: of each tensor it has a part of.

    The tensors of each group of the optimizer lie end to end, padded to twice the ranks (DeepSpeed
    0.19.8, runtime/zero/stage_1_and_2.py), and each rank has an equal stretch. A tensor that is cut
    in two is whole on both.
    """
    kept = 0
    for group in make_optimizer(model, config).param_groups:
        sizes = [parameter.numel() for parameter in group["params"]]
        stretch = -(-sum(sizes) // (2 * RANKS)) * 2
        ends = list(itertools.accumulate(sizes))
        for size, end in zip(sizes, ends, strict=True):
            if end - size < (rank + 1) * stretch and end > rank * stretch:
                kept += 4 * size
    return kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "divided"),
    [
        (0, set()),
        (1, {"moments"}),
        (2, {"moments", "gradients"}),
        (3, {"moments", "gradients", "parameters"}),
    ],
)
def test_ranks_hold_half_of_what_their_stage_divides(
    store: Path, tmp_path: Path, stage: int, divided: set[str]
) -> None:
    snapshot = open_snapshot(str(store))
    config = make_recipe(store, store).pretrain
    model = make_model(model_shape("tiny", snapshot), config)
    size = sum(parameter.numel() * 4 for parameter in model.parameters())
    whole = {"parameters": size, "gradients": size, "moments": 2 * size}
    # Padding of less than 64 bytes a parameter and rank.
    padding = 64 * len(list(model.parameters()))
    ranks = run_ranks(RANKS, tmp_path / "meeting", held_bytes, str(store), stage)
    for rank, held in enumerate(ranks):
        assert held.keys() == whole.keys()
        if stage == 2:
            assert held.pop("gradients") == whole_gradients(config, model, rank)
        for kind, found in held.items():
            expected = whole[kind] / (RANKS if kind in divided else 1)
            assert abs(found - expected) <= padding, (kind, found, expected)
