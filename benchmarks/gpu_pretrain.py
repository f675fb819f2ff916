"""Tokens a second and utilization of base and large at 8,192 x 512 on this machine's GPU.

`python -m benchmarks.gpu_pretrain [--presets base,large] [--microbatch 128] [--steps 2] [--eager]`
trains in bf16 by ZeRO stage 1 on random full rows with 77 labels each, without dropout, compiled
unless --eager says otherwise, and prints for each preset:

- tokens/s over whole steps, of 8,192 sequences in microbatches, the update included;
- the share of the rate that a product of two 8,192 x 8,192 bf16 matrices reaches on this device in
  the same run (operations as in `pretrain.flops`: what the objective needs, nothing twice);
- the ten costliest kernels of one microbatch.

Without a GPU it runs tiny shapes on the CPU, to show that it works; its rows say 'not measured'.
Not measured: reading and masking rows (benchmarks/streaming.py), several GPUs.
"""

import argparse
import sys
import time

import numpy as np
import torch

from corpus.tokenizer import BOS_ID, EOS_ID
from corpus.training import Pretrain
from pretrain.batches import Batch
from pretrain.config import ModelShape, fit_preset
from pretrain.dataset import Shares
from pretrain.engine import Engine
from pretrain.flops import attended_pairs, train_flops
from pretrain.launch import join, keep_freed_memory
from pretrain.model import make_model
from pretrain.world import World

VOCABULARY = 50_265  # RoBERTa's
LENGTH, BATCH = 512, 8192
SMALL_LENGTH, SMALL_BATCH, SMALL_VOCABULARY = 64, 8, 1000


def shape_of(preset: str, has_gpu: bool) -> ModelShape:
    """Return the shape to measure; a tiny one without a GPU."""
    if not has_gpu:
        return fit_preset("tiny", SMALL_VOCABULARY, SMALL_LENGTH)
    return fit_preset(preset, VOCABULARY, LENGTH)


def random_batch(shape: ModelShape, rows: int) -> Batch:
    """Draw a microbatch of full rows with labels at 15 % of their places, rounded up."""
    generator = torch.Generator().manual_seed(0)
    length = shape.sequence_length
    inputs = torch.randint(5, shape.vocab_size - 1, (rows, length), generator=generator)
    inputs[:, 0], inputs[:, -1] = BOS_ID, EOS_ID
    slots = -(-15 * length // 100)
    order = torch.rand(rows, length - 2, generator=generator).argsort(1)[:, :slots]
    places = order.sort(1).values + 1
    labels = inputs.gather(1, places)
    numbers = np.arange(rows)
    lengths = torch.full((rows,), length, dtype=torch.int32)
    return Batch(numbers, numbers, inputs.to(torch.int32), lengths, places, labels)


def operations(shape: ModelShape, batch: Batch) -> int:
    """Count the operations of training on a microbatch, as `metrics.jsonl` does."""
    return train_flops(shape, batch.token_count, attended_pairs(batch), batch.label_count)


def matrix_rate() -> float:
    """Measure operations a second of one large bf16 product, at its best of five."""
    one, other = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(20):
            one @ other
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 20)
    return 2 * 8192**3 / best


def train_steps(engine: Engine, batch: Batch, microbatches: int, steps: int) -> float:
    """Take whole steps on one microbatch over and over; return seconds a step."""
    start = time.perf_counter()
    for _ in range(steps):
        for _ in range(microbatches):
            engine.train(batch, batch.label_count * microbatches, dropout_seed=0)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def measure(preset: str, parsed: argparse.Namespace, world: World, peak: float | None) -> None:
    """Train a preset and print its row and its profile."""
    has_gpu = peak is not None
    shape = shape_of(preset, has_gpu)
    total = BATCH if has_gpu else SMALL_BATCH
    config = Pretrain(
        precision="bf16" if has_gpu else "fp32",
        dropout=0.0,
        compile=has_gpu and not parsed.eager,
        batch_sequences=total,
        microbatch_sequences=min(parsed.microbatch, total // 2),
    )
    shares = Shares(total, 1, config.microbatch_sequences)
    engine = Engine(make_model(shape, config), config, shares, world)
    batch = random_batch(shape, shares.microbatch_sequences)
    train_steps(engine, batch, shares.microbatches, 1)  # compiles, fills caches
    seconds = train_steps(engine, batch, shares.microbatches, parsed.steps)
    rate = batch.inputs.numel() * shares.microbatches / seconds
    if peak is None:
        print(f"{preset:6} not measured: no GPU here (a tiny model ran {rate:,.0f} tokens/s)")
    else:
        share = operations(shape, batch) * shares.microbatches / seconds / peak
        held = torch.cuda.max_memory_allocated() / 2**30
        print(
            f"{preset:6} {rate:11,.0f} tokens/s, {share:.1%} of the matrix rate, {held:.1f} GiB, "
            f"{shares.microbatches} microbatches of {shares.microbatch_sequences}"
        )
        _print_profile(engine, batch)
        torch.cuda.reset_peak_memory_stats()
    engine.close()


def _print_profile(engine: Engine, batch: Batch) -> None:
    with torch.profiler.profile() as profiler:
        engine.train(batch, batch.label_count, dropout_seed=0)
        torch.cuda.synchronize()
    print(profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=10))


def main() -> int:
    """Measure every preset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", default="base,large")
    parser.add_argument("--microbatch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--eager", action="store_true")
    parsed = parser.parse_args()
    peak = matrix_rate() if torch.cuda.is_available() else None
    if peak is not None:
        print(f"{torch.cuda.get_device_name()}: {peak / 1e12:.0f} TFLOP/s by one bf16 product")
    keep_freed_memory()  # as training does
    world = join(0, 1, 0)
    for preset in parsed.presets.split(","):
        measure(preset, parsed, world, peak)
    return 0


if __name__ == "__main__":
    sys.exit(main())
