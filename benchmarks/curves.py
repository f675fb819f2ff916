"""Loss curves of every layout beside one another and beside a plain loop without DeepSpeed.

`python -m benchmarks.curves STORE OUT [--steps N] [--most-processes P] [--optimizers muon,lamb]`
trains the tiny preset in fp32 without dropout on a store: a plain PyTorch loop over the same
batches, with torch's own functions in the place of `pretrain.fused`; 1 to P processes at ZeRO
stages 1, 2 and 3, and one process at stage 0; and a run that is stopped three times and goes on
with another stage and another number of processes. The batch, 7 sequences, is divided by no world
but the first. It prints the largest difference of each curve from the plain loop's, and the largest
between any two curves; exit status 1 where that is above 1e-5. Takes some minutes on two cores at
rows of 64 tokens. With `--optimizers` it does so for each of these at stage 0 alone, which is the
only one that leaves tensors whole, and compares no two optimizers.
"""

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from corpus.recipe import Recipe, Source
from corpus.snapshots import open_snapshot
from corpus.training import Pretrain
from pretrain import attention, model
from pretrain.batches import open_stream
from pretrain.config import data_plan, learning_rate_at, model_shape
from pretrain.dataset import Shares
from pretrain.launch import run_training
from pretrain.metrics import read_metrics
from pretrain.model import make_model
from pretrain.optimizers import make_optimizer

BATCH = 7
TOLERANCE = 1e-5


def recipe_for(store: str, run: Path, steps: int, **settings: Any) -> Recipe:  # noqa: ANN401
    """Return the recipe of a run; every run has the same data plan and learning rates."""
    fixed = {
        "run": str(run),
        "preset": "tiny",
        "max_steps": steps,
        "batch_sequences": BATCH,
        "microbatch_sequences": 3,
        "warmup_steps": steps,  # so that rates do not change where a run is cut short
        "learning_rate": 1e-3,
        "precision": "fp32",
        "dropout": 0.0,
        "checkpoint_every_steps": steps,
        "validate_every_steps": steps,
        "validation_sequences": 8,
    }
    return Recipe(
        store=store,
        snapshot=open_snapshot(store).label,
        sources=(Source(name="none", paths=("none",)),),
        pretrain=Pretrain.model_validate(fixed | settings),
    )


@contextmanager
def torch_only() -> Iterator[None]:
    """Have the model take torch's own functions on a CPU too."""
    with ExitStack() as stack:
        for module in (attention, model):
            stack.enter_context(mock.patch.object(module, "is_fused", lambda x: False))
        yield


def plain_losses(recipe: Recipe) -> list[float]:
    """Train in this process by a loop of torch alone: whole batches, no DeepSpeed, no `fused`."""
    config = recipe.pretrain
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    stream = open_stream(recipe.store, snapshot, data_plan(config, snapshot))
    trained = make_model(model_shape(config.preset, snapshot), config)
    optimizer = make_optimizer(trained, config)
    losses = []
    for step in range(config.max_steps):
        (batch,) = stream.train_batches(Shares(BATCH, 1, BATCH), step, rank=0)
        with torch_only():
            sums = trained(batch.inputs, batch.lengths, batch.slots, batch.labels)
        loss = sums[0] / batch.label_count
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(config, step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def losses_of(recipe: Recipe) -> list[float]:
    """Train as a recipe says and read the losses of all steps so far."""
    run_training(recipe)
    return [line["loss"] for line in read_metrics(str(recipe.pretrain.run))]


def resumed_losses(store: str, run: Path, steps: int) -> list[float]:
    """Stop after each quarter and go on at another stage in another world."""
    losses: list[float] = []
    for quarter, (processes, stage) in enumerate(((1, 1), (2, 2), (1, 3), (2, 0)), 1):
        recipe = recipe_for(store, run, steps, processes=processes, zero_stage=stage)
        cut = recipe.pretrain.model_copy(update={"max_steps": steps * quarter // 4})
        losses = losses_of(recipe.model_copy(update={"pretrain": cut}))
    return losses


def compare_worlds(parsed: argparse.Namespace, optimizer: str) -> float:
    """Train with an optimizer in worlds of every size; return the largest difference of curves."""
    settings = {"optimizer": optimizer, "zero_stage": 0}
    recipe = recipe_for(parsed.store, parsed.out / "none", parsed.steps, **settings)
    curves = {"plain loop": plain_losses(recipe)}
    for processes in range(1, parsed.most_processes + 1):
        run = parsed.out / f"{optimizer}-{processes}"
        chosen = {**settings, "processes": processes}
        name = f"{optimizer}, {processes} processes"
        curves[name] = losses_of(recipe_for(parsed.store, run, parsed.steps, **chosen))
        print(f"{name}: {widest(curves[name], curves['plain loop']):.2e} from the plain loop")
    largest = max(widest(*pair) for pair in itertools.combinations(curves.values(), 2))
    losses = curves["plain loop"]
    fell = f"loss {losses[0]:.2f} to {losses[-1]:.2f}"
    print(f"{optimizer}: {fell}, no two curves more than {largest:.2e} apart")
    return largest


def main() -> int:
    """Train all, print the table, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--most-processes", type=int, default=4)
    parser.add_argument("--optimizers", help="names with commas between: stage 0 of each instead")
    parsed = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if parsed.optimizers:
        names = parsed.optimizers.split(",")
        largest = max(compare_worlds(parsed, name) for name in names)
        return 0 if largest < TOLERANCE else 1
    recipe = recipe_for(parsed.store, parsed.out / "none", parsed.steps)
    curves = {"plain loop": plain_losses(recipe)}
    layouts = [(1, 0), *itertools.product(range(1, parsed.most_processes + 1), (1, 2, 3))]
    for processes, stage in layouts:
        name = f"{processes} processes, stage {stage}"
        run = parsed.out / f"processes-{processes}-stage-{stage}"
        settings = {"processes": processes, "zero_stage": stage}
        curves[name] = losses_of(recipe_for(parsed.store, run, parsed.steps, **settings))
        print(f"{name}: {widest(curves[name], curves['plain loop']):.2e} from the plain loop")
    curves["resumed"] = resumed_losses(parsed.store, parsed.out / "resumed", parsed.steps)
    print(f"resumed: {widest(curves['resumed'], curves['plain loop']):.2e} from the plain loop")
    largest = max(widest(*pair) for pair in itertools.combinations(curves.values(), 2))
    print(f"largest difference between any two of {len(curves)} curves: {largest:.2e}")
    return 0 if largest < TOLERANCE else 1


def widest(one: list[float], other: list[float]) -> float:
    """Return the largest difference of two curves of equal length."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    sys.exit(main())
