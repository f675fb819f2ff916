"""Times a few microbatches of every size on this machine's device.

Each size runs in a real engine with two microbatches a step: the first is a microbatch alone, the
second has the update too, so their difference is the update. Sizes double until one does not fit
the memory, until two in a row bring nothing, or until the time is over. Rows are made up (random
tokens, full rows), because no store is needed for it; real rows are as long. Where the recipe
isolates documents or asks for next sentences, made-up rows have documents, of equal length, and
pairs.

It measures one device alone. What ranks say to each other, reading data, validation and checkpoints
are not in it.
"""

import gc
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from corpus.tokenizer import UNK_ID
from corpus.training import Pretrain
from pretrain.batches import LEAST_STARTS, Batch
from pretrain.config import ModelShape, plan_over
from pretrain.dataset import Shares
from pretrain.engine import Engine, pair_count
from pretrain.masking import mask_rule
from pretrain.memory import activation_bytes, parameter_count, single_moments, state_bytes
from pretrain.model import make_model
from pretrain.world import World

_TIMES = 3  # measured steps of a size, after one that warms up
_SHARE_OF_MEMORY = 0.8  # a guess: the rest is for the allocator's gaps and for other programs
_GAIN = 1.02  # less is noise (a guess)
_PATIENCE = 2


@dataclass(frozen=True)
class Timing:
    """What one microbatch size costs on one device."""

    rows: int
    microbatch_seconds: float
    update_seconds: float
    peak_bytes: int | None  # None where the device does not count

    @property
    def rows_per_second(self) -> float:
        """Speed without the update."""
        return self.rows / self.microbatch_seconds


def probe(
    shape: ModelShape, config: Pretrain, world: World, seconds: float,
    document_tokens: int | None = None,
) -> list[Timing]:  # fmt: skip
    """Time microbatches of 1, 2, 4, ... rows for about so many seconds, engines' starts aside.

    `document_tokens` is how long documents are, where they are isolated; None: as long as rows.
    """
    timings: list[Timing] = []
    spent = 0.0
    for rows in _sizes(config.batch_sequences):
        if not _may_fit(shape, config, rows, world):
            break
        timing = _time(shape, config, world, made_up(shape, config, rows, document_tokens))
        if timing is None:
            break
        timings.append(timing)
        lasted = (_TIMES + 1) * (2 * timing.microbatch_seconds + timing.update_seconds)
        spent += lasted
        # The next one takes about twice as long.
        if spent + 2 * lasted > seconds or _is_flat(timings):
            break
    return timings


def pick(timings: list[Timing]) -> Timing:
    """Take the fastest; of nearly equal ones the smallest, which needs the least memory."""
    best = max(timing.rows_per_second for timing in timings)
    return next(timing for timing in timings if timing.rows_per_second * _GAIN >= best)


def slots_of(config: Pretrain, shape: ModelShape) -> int:
    """Count the slots of a row: as many labels as a full row can have, or hardly any exceeds."""
    return mask_rule(plan_over(config, ""), shape.vocab_size, shape.sequence_length).slots


def _sizes(batch_sequences: int) -> Iterator[int]:
    rows = 1
    while rows <= batch_sequences:
        yield rows
        rows *= 2


def _is_flat(timings: list[Timing]) -> bool:
    before = [timing.rows_per_second for timing in timings[:-_PATIENCE]]
    late = [timing.rows_per_second for timing in timings[-_PATIENCE:]]
    return bool(before) and max(late) < max(before) * _GAIN


def _may_fit(shape: ModelShape, config: Pretrain, rows: int, world: World) -> bool:
    """Tell whether a size is worth a try; on a GPU only trying tells."""
    if world.device.type == "cuda":
        return True
    slots = slots_of(config, shape)
    needed = activation_bytes(shape, config, rows, slots)
    single = single_moments(shape, config)
    needed += sum(state_bytes(parameter_count(shape), config, 1, single).values())
    return bool(needed < _SHARE_OF_MEMORY * psutil.virtual_memory().available)


def _time(shape: ModelShape, config: Pretrain, world: World, batch: Batch) -> Timing | None:
    """Time one size; None where it does not fit the device."""
    rows = len(batch.rows)
    is_gpu = world.device.type == "cuda"
    engine = None
    try:
        engine = Engine(make_model(shape, config), config, Shares(2 * rows, 1, rows), world)
        if is_gpu:  # what the start of an engine needs for a moment is not asked for
            torch.cuda.reset_peak_memory_stats()
        alone, updating = _time_steps(engine, batch, world)
    except torch.OutOfMemoryError:
        return None
    finally:
        if engine:
            engine.close()
        engine = None
        gc.collect()  # engines are circles,
        gc.collect()  # and have finalizers, until which they hold their tensors
        if is_gpu:
            torch.cuda.empty_cache()
    peak = torch.cuda.max_memory_allocated() if is_gpu else None
    return Timing(rows, alone, max(0.0, updating - alone), peak)


def _time_steps(engine: Engine, batch: Batch, world: World) -> tuple[float, float]:
    """Give the seconds of a microbatch without and with the update: medians of a few."""
    engine.set_learning_rate(0.0)
    labels, pairs = 2 * batch.label_count, 2 * pair_count(batch)
    times: tuple[list[float], list[float]] = ([], [])
    for at in range(2 * (_TIMES + 1)):
        start = time.perf_counter()
        engine.train(batch, labels, at, pairs)
        if world.device.type == "cuda":
            torch.cuda.synchronize()
        times[at % 2].append(time.perf_counter() - start)
    alone, updating = (statistics.median(column[1:]) for column in times)
    return alone, updating


def made_up(
    shape: ModelShape, config: Pretrain, rows: int, document_tokens: int | None = None
) -> Batch:
    """Make full rows of random tokens with as many labels as they have slots."""
    generator = np.random.default_rng(0)
    length, slots = shape.sequence_length, slots_of(config, shape)
    tokens = generator.integers(UNK_ID + 1, shape.vocab_size - 1, (rows, length))
    places = np.sort(np.argsort(generator.random((rows, length)), 1)[:, :slots], 1)
    starts = next_sentence = None
    if config.isolate_documents:
        starts = _starts(length, document_tokens or length).repeat(rows, 1)
    if shape.next_sentence:
        next_sentence = torch.arange(rows) % 2
    return Batch(
        numbers=np.arange(rows),
        rows=np.arange(rows),
        inputs=torch.from_numpy(tokens.astype(np.int32)),
        lengths=torch.full((rows,), length, dtype=torch.int32),
        slots=torch.from_numpy(places),
        labels=torch.from_numpy(np.take_along_axis(tokens, places, 1)),
        starts=starts,
        next_sentence=next_sentence,
    )


def _starts(length: int, document_tokens: int) -> torch.Tensor:
    """Say where the documents of a row begin, with room as in `pretrain.batches`.

    Length 10, documents of 4 -> 0, 4, 8, then 10 five times
    """
    begins = torch.arange(0, length, document_tokens, dtype=torch.int32)
    starts = torch.full((max(LEAST_STARTS, 1 << (len(begins) - 1).bit_length()),), length)
    starts = starts.to(torch.int32)
    starts[: len(begins)] = begins
    return starts
