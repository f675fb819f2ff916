"""The functions of `pretrain.fused` beside torch's own, forward and backward, fp32 on a CPU.

`python -m benchmarks.fused [--rows B] [--length S] [--heads H]` takes the median of a few calls of
each, in turns, with as many threads as OMP_NUM_THREADS says, and the loops of attention alone, in
nanoseconds a score. Heads are 64 wide and the vocabulary has 50,265 entries, 77 labels a row.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pretrain import loops
from pretrain.fused import attend_spans, draw_dropout, drop_out, summed_loss
from pretrain.launch import keep_freed_memory

TIMES = 5
HEAD, VOCABULARY, LABELS = 64, 50_265, 77

Pair = tuple[Callable[[], Tensor], Callable[[], Tensor]]


def pairs_of(rows: int, length: int, heads: int) -> dict[str, Pair]:
    """Return ours and torch's of each, which give a tensor to differentiate."""
    tokens, width = rows * length, heads * HEAD
    parts = [torch.randn(tokens, heads, HEAD, requires_grad=True) for _ in range(3)]
    spans = [(start, start + length) for start in range(0, tokens, length)]
    batched = [part.view(rows, length, heads, HEAD).transpose(1, 2) for part in parts]

    def attention(dropout: float) -> Pair:
        return (
            lambda: attend_spans(parts[0], parts[1], parts[2], spans, dropout),
            lambda: functional.scaled_dot_product_attention(
                batched[0], batched[1], batched[2], dropout_p=dropout
            ),
        )

    x = torch.randn(tokens, width, requires_grad=True)
    hidden = torch.randn(rows * LABELS, width, requires_grad=True)
    words = torch.randn(VOCABULARY, width).mul_(0.02).requires_grad_()
    bias = torch.zeros(VOCABULARY, requires_grad=True)
    labels = torch.randint(0, VOCABULARY, (len(hidden),))
    return {
        "attention": attention(0.0),
        "attention, dropout 0.1": attention(0.1),
        "dropout 0.1": (lambda: drop_out(x, 0.1), lambda: functional.dropout(x, 0.1)),
        "loss of a vocabulary": (
            lambda: summed_loss(hidden, words, bias, labels),
            lambda: functional.cross_entropy(
                functional.linear(hidden, words, bias), labels, reduction="sum"
            ),
        ),
    }


def seconds_of(work: Callable[[], Tensor]) -> float:
    """Time one call with its backward pass."""
    start = time.perf_counter()
    torch.autograd.backward(work().sum())
    return time.perf_counter() - start


def nanoseconds_a_score(length: int) -> list[tuple[str, float, float]]:
    """Time softmax with dropout and its gradient, ours and torch's, on scores in the cache."""
    scores = torch.randn(4, length, length)
    slopes, sums = torch.randn_like(scores), torch.zeros(4, length).numpy()
    drop, scale, rows = draw_dropout(0.1), np.float32(0.125), (0, length, length)
    ours: tuple[list[float], list[float]] = ([], [])
    theirs: tuple[list[float], list[float]] = ([], [])
    for _ in range(TIMES + 1):
        mine, other = scores.numpy().copy(), slopes.numpy().copy()
        again = scores.numpy().copy()
        marks = [time.perf_counter()]
        loops.softmax(mine, sums, drop, rows, scale)
        marks.append(time.perf_counter())
        loops.softmax_gradient(again, other, (sums, sums), drop, rows, scale)
        marks.append(time.perf_counter())
        x = scores.clone().requires_grad_()
        marks.append(time.perf_counter())
        out = functional.dropout((x * 0.125).softmax(-1), 0.1)
        marks.append(time.perf_counter())
        torch.autograd.backward(out, slopes)
        marks.append(time.perf_counter())
        for times, first in ((ours, 0), (theirs, 3)):
            for column in (0, 1):
                times[column].append(marks[first + column + 1] - marks[first + column])
    count = scores.numel() * 1e-9
    names = ("softmax with dropout", "its gradient")
    medians = [[statistics.median(each[1:]) / count for each in both] for both in (ours, theirs)]
    return list(zip(names, *medians, strict=True))


def main() -> int:
    """Measure all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--heads", type=int, default=4)
    parsed = parser.parse_args()
    keep_freed_memory()  # as training does, for both
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{'':24} {'ours':>9} {'torch':>9} {'ratio':>6}")
    for name, pair in pairs_of(parsed.rows, parsed.length, parsed.heads).items():
        times = [[seconds_of(work) for work in pair] for _ in range(TIMES + 1)][1:]
        ours, theirs = map(statistics.median, zip(*times, strict=True))
        print(f"{name:24} {ours * 1e3:6.1f} ms {theirs * 1e3:6.1f} ms {theirs / ours:6.2f}")
    for name, ours, theirs in nanoseconds_a_score(parsed.length):
        print(f"{name:24} {ours:6.2f} ns {theirs:6.2f} ns {theirs / ours:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
