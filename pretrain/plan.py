"""What a recipe's training will need: memory, time and cost, before it is started.

Numbers are of three kinds and say so: counted from shapes (parameters, bytes, operations), measured
by a short probe on this machine's device (probe.py), and forecast from both. A forecast for several
ranks takes each to be as fast as the one that was probed and talking to be free; what is not
measured is listed at the end, never guessed.

What training refuses before its first step is refused here, by the same checks. Nothing is written.
"""

import tempfile
from dataclasses import asdict, dataclass
from typing import Any

import torch

from corpus.recipe import Recipe
from corpus.shards import PAIRED
from corpus.snapshots import Snapshot, open_snapshot, overdue_takedowns
from corpus.training import Pretrain
from pretrain.batches import open_stream
from pretrain.config import ModelShape, data_plan, fit_preset, model_shape, plan_over
from pretrain.dataset import Shares
from pretrain.flops import device_name, peak_flops, row_flops
from pretrain.initial import fingerprint_start
from pretrain.memory import activation_bytes, parameter_count, single_moments, state_bytes
from pretrain.mixing import Order
from pretrain.probe import Timing, pick, slots_of
from pretrain.resume import check_newest, run_directory
from pretrain.trackers import check_trackers
from pretrain.world import World

_HOUR, _DAY = 3600, 86_400
_DOCUMENT_TOKENS = 256  # of an isolated document where no snapshot tells; a guess


@dataclass(frozen=True)
class Question:
    """What is asked beside the recipe."""

    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    price_per_device_hour: float | None = None
    with_store: bool = True


def describe_run(recipe: Recipe, question: Question) -> tuple[dict[str, Any], ModelShape]:
    """Check a recipe as training does, and count what it makes of its snapshot.

    Without the store it is counted from the recipe's own numbers alone.
    """
    if recipe.pretrain.run is not None:
        run_directory(recipe)
    check_trackers(recipe.pretrain.trackers)
    snapshot, shape = _open(recipe, question)
    if snapshot:
        _check_data(recipe, snapshot)
        newest = check_newest(recipe) if recipe.pretrain.run else None
        # Training reads it no more once a checkpoint tells what the run began with.
        if recipe.pretrain.init_from and newest is None:
            fingerprint_start(recipe.pretrain.init_from, shape, snapshot.tokenizer)
    return _count_run(recipe, snapshot, shape), shape


def _open(recipe: Recipe, question: Question) -> tuple[Snapshot | None, ModelShape]:
    """Open the snapshot, if it is asked for, and give the model's shape."""
    has_pairs = recipe.pretrain.next_sentence and recipe.pack.format in PAIRED
    if not question.with_store:
        return None, _shape_without_store(recipe, has_pairs)
    try:
        snapshot = open_snapshot(recipe.store, recipe.snapshot)
    except ValueError as error:
        raise ValueError(f"{error}: refresh the store first, or plan --without-store") from None
    return snapshot, model_shape(recipe.pretrain.preset, snapshot, has_pairs)


def _check_data(recipe: Recipe, snapshot: Snapshot) -> None:
    config = recipe.pretrain
    with tempfile.TemporaryDirectory() as empty:
        if config.cache:  # to open it would make its directory
            cache = config.cache.model_copy(update={"directory": empty})
            config = config.model_copy(update={"cache": cache})
        open_stream(recipe.store, snapshot, data_plan(config, snapshot), config).close()


def _count_run(recipe: Recipe, snapshot: Snapshot | None, shape: ModelShape) -> dict[str, Any]:
    config = recipe.pretrain
    # Which rows a step takes depends on the snapshot, how many it takes does not.
    sequences = plan_over(config, "").batch_of(config.max_steps).first
    document_tokens = _document_tokens(recipe, shape, snapshot)
    row = row_flops(shape, config.mask_prob * shape.sequence_length, document_tokens)
    return {
        "model": {
            "preset": config.preset,
            **shape.model_dump(),
            "parameters": parameter_count(shape),
        },
        "data": _describe_data(config, snapshot, sequences),
        "run": {
            "steps": config.max_steps,
            "batch_sequences": config.batch_sequences,
            "sequences": sequences,
            "tokens": sequences * shape.sequence_length,
            "tokens_per_step": config.batch_sequences * shape.sequence_length,
            "labels_per_step": round(
                config.batch_sequences * shape.sequence_length * config.mask_prob
            ),
            "document_tokens": document_tokens,
            "flops_per_step": round(config.batch_sequences * row),
            "flops": sequences * row,
        },
        "warnings": _warnings(recipe, snapshot),
    }


def _shape_without_store(recipe: Recipe, has_pairs: bool) -> ModelShape:
    if recipe.tokenizer.path is not None:
        raise ValueError(
            f"the size of the vocabulary of {recipe.tokenizer.path} is known once there is a "
            "snapshot: refresh the store first, then plan without --without-store"
        )
    vocabulary, length = recipe.tokenizer.vocab_size, recipe.pack.sequence_length
    return fit_preset(recipe.pretrain.preset, vocabulary, length, has_pairs)


def _document_tokens(recipe: Recipe, shape: ModelShape, snapshot: Snapshot | None) -> int | None:
    """Say how long isolated documents are: the snapshot's mean; None where none are isolated."""
    if not recipe.pretrain.isolate_documents or recipe.pack.format in PAIRED:
        return None  # the halves of a pair attend to each other
    counts = snapshot.counts if snapshot else None
    if counts is None or not counts.documents_kept:
        return min(_DOCUMENT_TOKENS, shape.sequence_length)
    mean = round(counts.tokens / counts.documents_kept)
    return max(1, min(mean, shape.sequence_length))


def _count_rows(snapshot: Snapshot, split: str) -> int:
    return sum(entry.rows for entry in snapshot.shards if entry.split == split)


def _describe_data(
    config: Pretrain, snapshot: Snapshot | None, sequences: int
) -> dict[str, Any] | None:
    if snapshot is None:
        return None
    rows = _count_rows(snapshot, "train")
    tokens = sum(entry.tokens for entry in snapshot.shards if entry.split == "train")
    return {
        "snapshot": snapshot.label,
        "rows": rows,
        "tokens": tokens,
        "fill": round(tokens / max(1, rows * snapshot.sequence_length), 4),
        "validation_rows": _count_rows(snapshot, "validation"),
        "passes": None if config.mixing else round(sequences / max(1, rows), 2),
        "source_passes": _source_passes(config, snapshot, sequences) if config.mixing else None,
    }


def _source_passes(config: Pretrain, snapshot: Snapshot, sequences: int) -> dict[str, float]:
    """Count the passes over each source that is mixed in: its rows come as its weight says."""
    entries = [entry for entry in snapshot.shards if entry.split == "train"]
    order = Order(data_plan(config, snapshot), entries)
    share = sequences / sum(order.weights)
    parts = zip(order.names, order.weights, order.sources, strict=True)
    return {str(name): round(share * weight / one.count, 2) for name, weight, one in parts}


def _warnings(recipe: Recipe, snapshot: Snapshot | None) -> list[str]:
    config, found = recipe.pretrain, []
    if config.run is None:
        found.append("pretrain.run is missing: `train` needs an output directory")
    if snapshot is None:
        return found
    if overdue := overdue_takedowns(recipe.store, snapshot):
        found.append(overdue)
    rows = _count_rows(snapshot, "train")
    if rows < config.batch_sequences:
        found.append(
            f"a step takes {config.batch_sequences:,} sequences of {rows:,}: some stand "
            "in it more than once; lower pretrain.batch_sequences"
        )
    if _count_rows(snapshot, "validation") == 0:
        found.append("there are no validation sequences: no validation loss will be shown")
    return found


def count_memory(
    shape: ModelShape, config: Pretrain, rows: int, ranks: tuple[int, ...]
) -> list[dict[str, Any]]:
    """Count the bytes of a rank, by the number of ranks, for microbatches of so many rows."""
    slots = slots_of(config, shape)
    counted = []
    for size in ranks:
        parts = state_bytes(parameter_count(shape), config, size, single_moments(shape, config))
        parts["activations"] = activation_bytes(shape, config, rows, slots)
        counted.append({"ranks": size, **parts, "together": sum(parts.values())})
    return counted


def forecast(
    shape: ModelShape, config: Pretrain, timing: Timing | None, sequences: int, ranks: int
) -> dict[str, Any]:
    """Say how the batch is divided among ranks and, where it was measured, how long a run takes."""
    rows = timing.rows if timing else config.microbatch_sequences
    shares = Shares(config.batch_sequences, ranks, rows)
    slots = shares.microbatches * shares.microbatch_sequences * ranks
    found: dict[str, Any] = {
        "ranks": ranks,
        "microbatch_sequences": shares.microbatch_sequences,
        "microbatches": shares.microbatches,
        "surplus_rows": slots - config.batch_sequences,
        "step_seconds": None,
        "run_seconds": None,
        "device_hours": None,
    }
    if timing:
        # A microbatch costs in proportion to its rows; a ramp's smaller batches cost as much less.
        micro = timing.microbatch_seconds * shares.microbatch_sequences / timing.rows
        step = shares.microbatches * micro + timing.update_seconds
        mean = sequences / config.max_steps / config.batch_sequences
        run = config.max_steps * (mean * shares.microbatches * micro + timing.update_seconds)
        found["step_seconds"] = step
        found["run_seconds"] = run
        found["device_hours"] = run * ranks / _HOUR
    return found


def make_plan(
    recipe: Recipe, question: Question, timings: list[Timing] | None, world: World
) -> dict[str, Any]:
    """Put counts, measurements and forecasts together."""
    snapshot, shape = _open(recipe, question)
    found = _count_run(recipe, snapshot, shape)
    config = recipe.pretrain
    timing = pick(timings) if timings else None
    rows = timing.rows if timing else config.microbatch_sequences
    sequences = found["run"]["sequences"]
    name = device_name(world.device)
    peak = peak_flops(name, config.precision)
    forecasts = []
    for ranks in question.ranks:
        one = forecast(shape, config, timing, sequences, ranks)
        step, price = one["step_seconds"], question.price_per_device_hour
        work = found["run"]["flops_per_step"]
        one["utilization"] = work / step / (peak * ranks) if peak and step else None
        hours = one["device_hours"]
        one["cost"] = None if price is None or hours is None else price * hours
        forecasts.append(one)
    return found | {
        "memory": count_memory(shape, config, rows, question.ranks),
        "device": name or f"CPU, {torch.get_num_threads()} threads",
        "probe": None if timings is None else [asdict(one) for one in timings],
        "microbatch_sequences": rows,
        "microbatch_is_measured": timing is not None,
        "forecasts": forecasts,
        "not_known": _not_known(timings, world, peak),
    }


def _not_known(timings: list[Timing] | None, world: World, peak: float | None) -> list[str]:
    gaps = ["time that ranks spend talking to each other", "validation and checkpoints"]
    if timings is None:
        gaps.append("speed: not measured, no probe was made")
    elif not timings:
        gaps.append("speed: not measured, not even one row fits the memory")
    if world.device.type != "cuda":
        gaps.append("speed and memory of a GPU: not measured, there is none here")
    if peak is None:
        gaps.append("utilization: the peak of this device is unknown")
    return gaps


def show_plan(plan: dict[str, Any]) -> str:
    """Lay a plan out for a reader."""
    model, run, data = plan["model"], plan["run"], plan["data"]
    lines = [
        f"model       {model['preset']}: {model['layers']} layers of {model['width']}, vocabulary "
        f"{model['vocab_size']:,}, {model['parameters']:,} parameters",
        f"run         {run['steps']:,} steps, {run['sequences']:,} sequences, "
        f"{run['tokens']:.3g} tokens, {run['flops']:.3g} operations",
        f"step        {run['batch_sequences']:,} sequences, {run['tokens_per_step']:,} tokens, "
        f"about {run['labels_per_step']:,} labels, {run['flops_per_step']:.3g} operations"
        f"{_show_documents(run['document_tokens'])}",
        f"data        {_show_data(data)}",
        *(f"warning     {text}" for text in plan["warnings"]),
        "",
        f"Memory of a rank in GB, microbatches of {plan['microbatch_sequences']} rows (counted):",
        *_table(_memory_rows(plan["memory"])),
        "",
        *_show_probe(plan),
        "",
        "The run by the number of ranks (forecast):",
        *_table(_forecast_rows(plan["forecasts"])),
        "",
        "Not in these numbers:",
        *(f"- {text}" for text in plan["not_known"]),
    ]
    return "\n".join(lines)


def _show_data(data: dict[str, Any] | None) -> str:
    if data is None:
        return "not known without the store"
    return (
        f"snapshot {data['snapshot']}: {data['rows']:,} rows, {data['tokens']:,} tokens "
        f"({data['fill']:.1%} full), {_show_passes(data)}"
    )


def _show_passes(data: dict[str, Any]) -> str:
    if data["source_passes"] is None:
        return f"{data['passes']:,} passes over them"
    each = (f"{name} {passes:,}" for name, passes in data["source_passes"].items())
    return f"passes by source: {', '.join(each)}"


def _show_documents(tokens: int | None) -> str:
    return "" if tokens is None else f", isolated documents taken as {tokens:,} tokens long"


def _show_probe(plan: dict[str, Any]) -> list[str]:
    if not plan["probe"]:
        return [f"Microbatch: {plan['microbatch_sequences']} rows, as the recipe says (no probe)"]
    length = plan["model"]["sequence_length"]
    rows = [["rows", "seconds", "tokens/s", "update s", "peak GB"]]
    for one in plan["probe"]:
        speed = one["rows"] * length / one["microbatch_seconds"]
        peak = "not counted" if one["peak_bytes"] is None else f"{one['peak_bytes'] / 1e9:.2f}"
        seconds, update = f"{one['microbatch_seconds']:.3f}", f"{one['update_seconds']:.3f}"
        rows.append([f"{one['rows']:,}", seconds, f"{speed:,.0f}", update, peak])
    return [
        f"Microbatches on {plan['device']} (measured):",
        *_table(rows),
        f"Take pretrain.microbatch_sequences={plan['microbatch_sequences']}",
    ]


def _memory_rows(counted: list[dict[str, Any]]) -> list[list[str]]:
    names = [name for name in counted[0] if name != "ranks"]
    head = ["ranks", *(name.replace("_", " ") for name in names)]
    return [
        head,
        *([f"{one['ranks']:,}", *(f"{one[name] / 1e9:.2f}" for name in names)] for one in counted),
    ]


def _forecast_rows(forecasts: list[dict[str, Any]]) -> list[list[str]]:
    head = ["ranks", "microbatches", "surplus rows", "step s", "days", "device h", "cost", "used"]
    rows = [head]
    for one in forecasts:
        days = None if one["run_seconds"] is None else one["run_seconds"] / _DAY
        used = None if one["utilization"] is None else 100 * one["utilization"]
        rows.append(
            [
                f"{one['ranks']:,}",
                f"{one['microbatches']:,} of {one['microbatch_sequences']}",
                f"{one['surplus_rows']:,}",
                *(_or_unknown(value) for value in (one["step_seconds"], days)),
                _or_unknown(one["device_hours"]),
                _or_unknown(one["cost"]),
                _or_unknown(used, " %"),
            ]
        )
    return rows


def _or_unknown(value: float | None, unit: str = "") -> str:
    return (
        "unknown" if value is None else f"{value:,.3g}{unit}" if value < 1000 else f"{value:,.0f}"
    )


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
