"""Three steps of the paper's batch, 8,192 x 512, by one process and by two: the same batches.

`python -m benchmarks.big_batch STORE OUT` trains the tiny preset for three steps on a store with
sequences of 512 tokens, in fp32 and without dropout, once with one process and once with two, and
compares batch hashes and losses. It then rebuilds the three batches from the store and counts their
rows: where the store has at least 24,576 train rows, none may come twice. The limit in the same run
is one process beside two. Takes some minutes on two cores.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from corpus.recipe import Recipe, Source
from corpus.snapshots import open_snapshot
from corpus.training import Pretrain
from pretrain.batches import open_stream
from pretrain.config import data_plan
from pretrain.launch import run_training
from pretrain.metrics import read_metrics

STEPS, BATCH = 3, 8192


def recipe_for(store: str, out: Path, processes: int) -> Recipe:
    """Return the recipe of one of the two runs."""
    return Recipe(
        store=store,
        snapshot=open_snapshot(store).label,
        sources=(Source(name="none", paths=("none",)),),
        pretrain=Pretrain(
            run=str(out / f"processes-{processes}"),
            preset="tiny",
            max_steps=STEPS,
            batch_sequences=BATCH,
            microbatch_sequences=32,
            warmup_steps=1,
            precision="fp32",
            dropout=0,
            processes=processes,
            validation_sequences=32,
        ),
    )


def count_rows(recipe: Recipe) -> tuple[int, int]:
    """Return how many different rows the steps take, and how many there are."""
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    stream = open_stream(recipe.store, snapshot, data_plan(recipe.pretrain, snapshot))
    taken = stream.order.places(np.arange(STEPS * BATCH, dtype=np.int64)).rows
    return len(np.unique(taken)), stream.train.count


def main() -> int:
    """Run both and compare; exit status 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("out", type=Path)
    parsed = parser.parse_args()
    found = {}
    for processes in (2, 1):
        recipe = recipe_for(parsed.store, parsed.out, processes)
        start = time.perf_counter()
        run_training(recipe)
        seconds = time.perf_counter() - start
        found[processes] = read_metrics(str(recipe.pretrain.run))
        losses = [line["loss"] for line in found[processes]]
        print(f"{processes} processes: {seconds:.0f} s, losses {losses}")
    distinct, rows = count_rows(recipe)
    print(f"{distinct:,} different rows of {rows:,} in {STEPS * BATCH:,} sequences")
    same = [
        one["batch_hash"] == two["batch_hash"] for one, two in zip(*found.values(), strict=True)
    ]
    apart = max(abs(one["loss"] - two["loss"]) for one, two in zip(*found.values(), strict=True))
    print(f"batch hashes equal: {same}; losses at most {apart:.2e} apart")
    complete = distinct == min(rows, STEPS * BATCH)
    return 0 if all(same) and complete and apart < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
