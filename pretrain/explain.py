"""Rebuilds the global batch of any step from the store alone, and shows what is in it.

Its hash is computed from the rebuilt tensors and compared with the one that the ranks recorded from
theirs. One process is enough, whatever world size trained the step. The documents of a row are
named from the store's tokens files (corpus/membership.py), with the addresses of their pages; where
only shards were copied, there is the command that names them where the whole store is.
"""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corpus.membership import documents_of, read_urls
from corpus.recipe import Recipe
from corpus.shards import RowPieces
from corpus.snapshots import Snapshot, open_snapshot, tokenizer_root
from corpus.tokenizer import Tokenizer, open_tokenizer
from pretrain.batches import Batch, Stream, hash_batches, open_stream
from pretrain.checkpoints import (
    RECIPE,
    SKIPPED,
    CheckpointState,
    checkpoint_home,
    known_metrics,
    newest_checkpoint,
)
from pretrain.config import data_plan, plan_over
from pretrain.dataset import Shares
from pretrain.masking import IGNORED, ONE, rule_at
from pretrain.metrics import METRICS, read_metrics
from pretrain.mixing import interleave
from pretrain.spikes import WorstRow, known_rollbacks, left_out_batches, read_rollbacks

ROWS_SHOWN = 3
_SECOND_HALF = {0: "the next one", 1: "a random one", IGNORED: "none"}


class _Asked(NamedTuple):
    """Which step of which run to show, what was left out before it, and how many of its rows."""

    run: str
    recipe: Recipe
    metrics: list[dict[str, Any]]
    step: int
    left_out: tuple[int, ...]
    rows: int


def open_recipe(run: str, newest: tuple[str, CheckpointState] | None = None) -> Recipe:
    """Read the recipe that a run was started with; `newest` is its checkpoint where it is known."""
    path = Path(run) / RECIPE
    if path.exists():
        return Recipe.model_validate_json(path.read_bytes())
    newest = newest or newest_checkpoint(run)
    if newest is None:
        raise ValueError(
            f"{run} is no training run: it has neither {RECIPE} nor a checkpoint; where the recipe "
            "sets pretrain.checkpoint_root, give that in its place"
        )
    return Recipe.model_validate(newest[1].recipe)


def _metrics(run: str, newest: tuple[str, CheckpointState] | None) -> list[dict[str, Any]]:
    """Read the metrics of a run, or of a root of checkpoints: those of the newest one."""
    return known_metrics(run, *newest) if newest else read_metrics(run)


def explain_step(run: str, step: int, rows: int = ROWS_SHOWN) -> str:
    """Describe the global batch of a step: where its rows lie, its hash, some rows with masks."""
    newest = newest_checkpoint(checkpoint_home(run))
    recipe = open_recipe(run, newest)
    if not 0 <= step < recipe.pretrain.max_steps:
        raise ValueError(
            f"step {step} is not in this run: its steps are 0 to {recipe.pretrain.max_steps - 1}"
        )
    metrics = _metrics(run, newest)
    left_out = left_out_batches(run, newest)
    taken = [line["batch"] for line in metrics if line["step"] == step]
    plan = plan_over(recipe.pretrain, "", left_out)
    if taken and plan.batch_of(step).number != taken[0]:
        # Taken before a rollback whose steps are yet to be taken again.
        left_out = tuple(each for each in left_out if each < taken[0])
        if step + len(left_out) != taken[0]:
            raise ValueError(
                f"step {step} took batch {taken[0]} by {run}/{METRICS}, but what is known to be "
                f"left out before it is {list(left_out) or 'nothing'}: put {SKIPPED} back, from "
                "which some is missing"
            )
    return _explain(_Asked(run, recipe, metrics, step, left_out, rows))


def explain_batch(run: str, number: int, rows: int = ROWS_SHOWN) -> str:
    """Describe a batch by its number, also one that was left out: at the step that wanted it."""
    newest = newest_checkpoint(checkpoint_home(run))
    recipe = open_recipe(run, newest)
    left_out = left_out_batches(run, newest)
    before = tuple(each for each in left_out if each < number)
    step = number - len(before)
    if number < 0 or step >= recipe.pretrain.max_steps:
        raise ValueError(
            f"batch {number} is not in this run: its {recipe.pretrain.max_steps} steps took, or "
            f"left out, batches 0 to {recipe.pretrain.max_steps - 1 + len(before)}"
        )
    note = "the run left this batch out" if number in left_out else None
    known = known_rollbacks(read_rollbacks(run), newest)
    told = [each for each in known if each.batches[-1] == number]
    worst = [row for rollback in told for row in rollback.worst]
    return _explain(_Asked(run, recipe, _metrics(run, newest), step, before, rows), note, worst)


def _explain(asked: _Asked, note: str | None = None, worst: Iterable[WorstRow] = ()) -> str:
    """Describe a batch; `worst` are the rows that a rollback is traced to."""
    run, recipe, _, step, left_out, shown = asked
    if shown < 0:
        raise ValueError(f"--rows is {shown}, expected 0 or more")
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    plan = data_plan(recipe.pretrain, snapshot, left_out)
    stream = open_stream(recipe.store, snapshot, plan)
    stream.train.be_brief()  # a batch may take a row of every shard
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
        *show_place(stream, step),
        f"tokens      {sum(batch.token_count for batch in batches):,}",
        f"labels      {sum(batch.label_count for batch in batches):,}",
        f"masks       {_show_masking(stream, step)}",
        f"batch hash  {_compare(asked, place.number, f'{hash_batches(batches):064x}', note)}",
        *(f"{count:>9,} rows of {path}" for path, count in sorted(shards.items())),
    ]
    for at in range(min(shown, len(rows))):
        lines += ["", f"sequence {batches[0].numbers[at]:,}: {_show_home(stream, int(rows[at]))}"]
        lines += _show_documents(recipe.store, snapshot, stream, int(rows[at]))
        lines += _show_row(batches[0], at, tokenizer)
    for each in worst:
        loss = "no number" if each.loss is None else f"{each.loss:.3f} nats a label"
        row = stream.train.number_of(each.shard, each.row)
        lines += ["", f"among the largest losses: sequence {each.sequence:,}, {loss}"]
        lines.append(_show_home(stream, row))
        lines += _show_documents(recipe.store, snapshot, stream, row)
    return "\n".join(lines)


def show_place(stream: Stream, step: int) -> list[str]:
    """Say which batch a step takes, which sequences those are, and of which pass."""
    plan, order = stream.plan, stream.order
    number, first, sequences = plan.batch_of(step)
    last = first + sequences - 1
    lines = []
    if plan.skipped_batches:
        skipped = [each for each in plan.skipped_batches if each < number]
        lines.append(f"batch       {number:,}, left out before it: {skipped or 'none'}")
    if not plan.mixing:
        passed = f"pass {first // stream.train.count} of {stream.train.count:,} rows"
        return [*lines, f"sequences   {first:,} to {last:,}, {passed}"]
    lines.append(f"sequences   {first:,} to {last:,}")
    homes, own = interleave(np.arange(first, last + 1), order.weights)
    for home, (name, source) in enumerate(zip(order.names, order.sources, strict=True)):
        mine = own[homes == home]
        share = f"{len(mine):>9,} of {name}, weight {order.weights[home]} of {sum(order.weights)}"
        passed = f", pass {mine[0] // source.count} of {source.count:,} rows" if len(mine) else ""
        lines.append(share + passed)
    return lines


def _show_masking(stream: Stream, step: int) -> str:
    plan = stream.plan
    rate = rule_at(stream.rule, plan, step).mask_parts / ONE
    copies = f", {plan.mask_copies} static copies" if plan.mask_copies else ""
    return f"{plan.masking}, {rate:.2%} of real tokens{copies}"


def _show_home(stream: Stream, row: int) -> str:
    entry, local = stream.train.locate(row)
    return f"row {local:,} of {entry.path}, source {entry.source}"


def _show_documents(store: str, snapshot: Snapshot, stream: Stream, row: int) -> Iterator[str]:
    """Name the documents of a row, each with the token that it starts at."""
    entry, _ = stream.train.locate(row)
    shard, local = stream.train.open(row)
    pieces = shard.pieces_of(local)
    tree = snapshot.tree(store)
    try:
        documents = documents_of(tree, snapshot, entry, pieces.documents.tolist())
    except FileNotFoundError as missing:
        yield f"documents of the shard: {_show_numbers(pieces)}"
        yield f"their ids are not here ({missing})"
        command = _show_command(store, snapshot.label, entry.path, local)
        yield f"where the whole store is: {command}"
        return
    try:
        urls = read_urls(tree, documents)
    except FileNotFoundError as missing:
        urls = {}
        yield f"their addresses are not here ({missing})"
    for document, start, begins in zip(documents, pieces.starts, pieces.begins, strict=True):
        url = f", {urls[document.id]}" if document.id in urls else ""
        yield f"  from token {start}: {document.id}{'' if begins else ' (continued)'}{url}"


def _show_numbers(pieces: RowPieces) -> str:
    """Give the numbers of documents in the order of packing."""
    return ", ".join(
        f"{document} from token {start}{'' if begins else ' (continued)'}"
        for document, start, _, begins in zip(*pieces, strict=True)
    )


def _compare(asked: _Asked, number: int, found: str, note: str | None) -> str:
    """Set a batch's hash beside what the ranks recorded; `note` is what else is known of it."""
    if note:
        return f"{found} ({note})"
    recorded = [line["batch_hash"] for line in asked.metrics if line["batch"] == number]
    if not recorded:
        has_lines = asked.metrics or (Path(asked.run) / METRICS).exists()
        none = "the run has not taken this batch" if has_lines else f"there is no {METRICS} here"
        return f"{found} ({none})"
    if recorded[0] == found:
        return f"{found} (what the ranks trained on)"
    raise ValueError(
        f"the store gives batch hash {found} for batch {number}, the ranks recorded {recorded[0]}: "
        "the run was made by another version, or store and run do not belong together"
    )


def _show_command(store: str, label: str, path: str, row: int) -> str:
    """Give the command that names a row's documents."""
    name = path.removeprefix("shards/").removesuffix(".arrow")
    asked = ["--snapshot", label, "--row", f"{name}:{row}"]
    return shlex.join(["python", "-m", "pipeline", "show", store, *asked])


def _show_row(batch: Batch, at: int, tokenizer: Tokenizer) -> list[str]:
    used = batch.labels[at] != IGNORED
    truth = [tokenizer.decode([token]) for token in batch.labels[at][used].tolist()]
    lines = [
        tokenizer.decode(batch.inputs[at, : int(batch.lengths[at])].tolist()),
        f"labels at {batch.slots[at][used].tolist()}: {truth}",
    ]
    if batch.next_sentence is not None:
        lines.append(f"second half: {_SECOND_HALF[int(batch.next_sentence[at])]}")
    return lines
