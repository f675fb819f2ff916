"""Rebuilds the global batch of any step from the store alone, and shows what is in it.

Its hash is computed from the rebuilt tensors and compared with the one that the ranks recorded from
theirs. One process is enough, whatever world size trained the step.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from corpus.recipe import Recipe
from corpus.snapshots import open_snapshot, tokenizer_root
from corpus.tokenizer import Tokenizer, open_tokenizer
from pretrain.batches import Batch, Stream, hash_batches, open_stream
from pretrain.checkpoints import RECIPE
from pretrain.config import data_plan
from pretrain.dataset import Shares
from pretrain.masking import IGNORED
from pretrain.metrics import read_metrics
from pretrain.spikes import listed_batches

_ROWS_SHOWN = 3


def open_recipe(run: str) -> Recipe:
    """Read the recipe that a run was started with."""
    path = Path(run) / RECIPE
    if not path.exists():
        raise ValueError(f"{run} is no training run: it has no {RECIPE}")
    return Recipe.model_validate_json(path.read_bytes())


def explain_step(run: str, step: int) -> str:
    """Describe the global batch of a step: where its rows lie, its hash, some rows with masks."""
    recipe = open_recipe(run)
    if not 0 <= step < recipe.pretrain.max_steps:
        raise ValueError(
            f"step {step} is not in this run: its steps are 0 to {recipe.pretrain.max_steps - 1}"
        )
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    plan = data_plan(recipe.pretrain, snapshot, listed_batches(run))
    stream = open_stream(recipe.store, snapshot, plan)
    tokenizer = open_tokenizer(tokenizer_root(recipe.store, snapshot.tokenizer))
    place = stream.plan.batch_of(step)
    shares = Shares(place.sequences, 1, place.sequences)
    batches = stream.train_batches(shares, step, rank=0)
    rows = np.concatenate([batch.rows[batch.numbers >= 0] for batch in batches])
    shards = Counter(stream.train.locate(int(row))[0].path for row in rows)
    lines = [
        f"step {step} of {run}",
        f"snapshot    {snapshot.label} ({snapshot.fingerprint})",
        f"data plan   {stream.plan.hash}",
        f"sequences   {place.first:,} to {place.first + len(rows) - 1:,}, "
        f"pass {place.first // stream.train.count} of {stream.train.count:,} rows",
        f"tokens      {sum(batch.token_count for batch in batches):,}",
        f"labels      {sum(batch.label_count for batch in batches):,}",
        f"batch hash  {_compare(run, step, f'{hash_batches(batches):064x}')}",
        *(f"{count:>9,} rows of {path}" for path, count in sorted(shards.items())),
        *_show_rows(batches[0], stream, tokenizer),
    ]
    return "\n".join(lines)


def _compare(run: str, step: int, found: str) -> str:
    recorded = [line["batch_hash"] for line in read_metrics(run) if line["step"] == step]
    if not recorded:
        return f"{found} (the run has not taken this step)"
    if recorded[0] == found:
        return f"{found} (what the ranks trained on)"
    raise ValueError(
        f"the store gives batch hash {found} for step {step}, the ranks recorded {recorded[0]}: "
        "the run was made by another version, or store and run do not belong together"
    )


def _show_rows(batch: Batch, stream: Stream, tokenizer: Tokenizer) -> list[str]:
    lines = []
    for at in range(min(_ROWS_SHOWN, int((batch.numbers >= 0).sum()))):
        shard, row = stream.train.locate(int(batch.rows[at]))
        inputs = batch.inputs[at, : int(batch.lengths[at])].tolist()
        used = batch.labels[at] != IGNORED
        truth = [tokenizer.decode([token]) for token in batch.labels[at][used].tolist()]
        lines += [
            "",
            f"sequence {batch.numbers[at]:,}: row {row:,} of {shard.path}",
            tokenizer.decode(inputs),
            f"labels at {batch.slots[at][used].tolist()}: {truth}",
        ]
    return lines
