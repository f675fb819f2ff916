"""What torch is slow at on a CPU in fp32: dropout, attention with it, and the loss of a vocabulary.

Torch draws dropouts one after the other from a generator, 9 ns each, and its attention with dropout
makes five tensors of rows x heads x S x S. The loss makes three of slots x vocabulary. Here matrix
products are torch's, on pieces that stay in a processor's cache; what comes between them is done in
place, once, by the loops of loops.py. Attention keeps its sums' logarithms and makes its scores
again going backward (Dao et al. 2022, "FlashAttention"); the loss takes its gradient at once while
a piece of logits is at hand, so that none is kept. A dropout is a hash of a seed drawn from torch's
generator, made again where the backward pass needs it.

For tensors of other types, on other devices and under torch's compiler the model takes torch's own
functions. Sums differ from torch's in rounding; dropouts are others of the same distribution.

Shapes: T tokens of all rows, H heads, K width of a head, N tokens of a document, Q of a piece's
queries, L slots of all rows and R those of a piece, D width, V vocabulary.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pretrain import loops

# How many numbers a piece has, measured on one core of an AMD EPYC (AVX2, 2026-11), widths 128 to
# 768: attention costs 4 % more with half as many scores and as much with eight times as many; the
# loss 3 % more with half as many logits and 3 % less with twice as many, 64 MB more. Logits are
# made by some entries at a time: MKL makes 58 x 10^9 operations of all at once, 80 of these.
_SCORES = 2**20
_LOGITS = 2**24
_WORDS = 2048

Spans = Sequence[tuple[int, int]]  # where documents begin and end among the tokens


def is_fused(x: Tensor) -> bool:
    """Tell whether these functions take a tensor."""
    is_plain = x.dtype == torch.float32 and x.device.type == "cpu"
    return is_plain and not torch.compiler.is_compiling()


def drop_out(x: Tensor, probability: float) -> Tensor:
    """Set numbers to zero with this probability, and enlarge the others for it."""
    if probability == 0:
        return x
    return _Dropout.apply(x, _draw(probability))  # type: ignore[no-any-return, no-untyped-call]


def attend_spans(
    query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, spans: Spans, probability: float
) -> Tensor:
    """Attend within spans: [T, H, K]; zeros outside of them."""
    drop = _draw(probability)
    return _Attention.apply(query_THK, key_THK, value_THK, spans, drop)  # type: ignore[no-any-return, no-untyped-call]


def summed_loss(x_LD: Tensor, words_VD: Tensor, bias_V: Tensor, labels_L: Tensor) -> Tensor:
    """Sum the cross-entropies, nats, of the logits x words + bias; negative labels have none.

    The gradient can be taken once.
    """
    assert int(labels_L.max()) < len(bias_V), "a label is no entry of the vocabulary"
    if torch.is_grad_enabled():
        return _SummedLoss.apply(x_LD, words_VD, bias_V, labels_L)  # type: ignore[no-any-return, no-untyped-call]
    return _sum_losses(x_LD, words_VD, bias_V, labels_L)


def _draw(probability: float) -> loops.Drop:
    """Draw a dropout from torch's generator; none is drawn for a probability of 0."""
    seed = int(torch.randint(2**63 - 1, ())) if probability else 0
    limit = min(round(probability * 2**32), 2**32 - 1)
    growth = 0.0 if probability == 1 else 1 / (1 - probability)
    return loops.Drop(np.uint32(limit), np.float32(growth), np.uint64(seed))


def _spread(count: int, work: Callable[[slice], None]) -> None:
    """Do work on `count` things, in as many parts at once as torch has threads."""
    threads = min(count, torch.get_num_threads())
    if threads <= 1:
        work(slice(0, count))
        return
    edges = (count * at // threads for at in range(threads + 1))
    list(_pool(os.getpid(), threads).map(work, [slice(*pair) for pair in pairwise(edges)]))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Keep threads for a process; a fork has none of its parent's."""
    return ThreadPoolExecutor(threads, f"loops-{process}")


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: loops.Drop) -> Tensor:  # noqa: ANN401
        ctx.drop = drop
        return _dropped(x, drop)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        return _dropped(slope, ctx.drop), None


def _dropped(x: Tensor, drop: loops.Drop) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    source, target = (each.flatten(0, -2).numpy() for each in (x, out))
    _spread(len(source), lambda some: loops.drop_out(source[some], target[some], drop, some.start))
    return out


class _Piece(NamedTuple):
    """Some heads of some queries of a document, with all its keys."""

    heads: slice
    queries: slice
    keys: slice
    row: int  # of the first head's first query in the dropout
    stride: int  # from head to head

    def shape(self, room: Tensor) -> Tensor:
        """Take what the piece's scores need of some room: [heads, queries, keys]."""
        sizes = [each.stop - each.start for each in (self.heads, self.queries, self.keys)]
        return room[: math.prod(sizes)].view(sizes)


def _pieces(spans: Spans, tokens: int, heads: int) -> Iterator[_Piece]:
    """Cut attention so that the scores of a piece are at most `_SCORES`."""
    for start, stop in spans:
        size = stop - start
        queries = max(1, min(size, _SCORES // size))
        together = max(1, min(heads, _SCORES // (size * queries)))
        for head in range(0, heads, together):
            some = slice(head, min(head + together, heads))
            for begin in range(start, stop, queries):
                part = slice(begin, min(begin + queries, stop))
                yield _Piece(some, part, slice(start, stop), head * tokens + begin, tokens)


def _soften(
    piece: _Piece, scores_HQN: Tensor, logs_HQ: Tensor, drop: loops.Drop, scale: np.float32
) -> None:
    """Run `loops.softmax` on a piece."""
    scores, logs = scores_HQN.numpy(), logs_HQ.numpy()

    def work(heads: slice) -> None:
        rows = (piece.row + heads.start * piece.stride, piece.stride)
        loops.softmax(scores[heads], logs[heads], drop, rows, scale)

    _spread(len(scores), work)


def _soften_back(
    piece: _Piece,
    scores_HQN: tuple[Tensor, Tensor],
    sums_HQ: tuple[Tensor, Tensor],
    drop: loops.Drop,
    scale: np.float32,
) -> None:
    """Run `loops.softmax_gradient` on a piece."""
    scores, slopes, logs, means = (each.numpy() for each in (*scores_HQN, *sums_HQ))

    def work(heads: slice) -> None:
        rows = (piece.row + heads.start * piece.stride, piece.stride)
        sums = (logs[heads], means[heads])
        loops.softmax_gradient(scores[heads], slopes[heads], sums, drop, rows, scale)

    _spread(len(scores), work)


def _scale(query: Tensor) -> np.float32:
    return np.float32(query.shape[-1] ** -0.5)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query_THK: Tensor,
        key_THK: Tensor,
        value_THK: Tensor,
        spans: Spans,
        drop: loops.Drop,
    ) -> Tensor:
        query, key, value = (part.transpose(0, 1) for part in (query_THK, key_THK, value_THK))
        out_THK = torch.zeros_like(query_THK, memory_format=torch.contiguous_format)
        logs_HT, out = torch.empty(query.shape[:2]), out_THK.transpose(0, 1)
        room = torch.empty(_SCORES)
        for piece in _pieces(spans, *logs_HT.shape[::-1]):
            queries, keys = (piece.heads, piece.queries), (piece.heads, piece.keys)
            scores = piece.shape(room)
            torch.bmm(query[queries], key[keys].mT, out=scores)
            _soften(piece, scores, logs_HT[queries], drop, _scale(query))
            out[queries] = torch.bmm(scores, value[keys])
        ctx.save_for_backward(query_THK, key_THK, value_THK, out_THK, logs_HT)
        ctx.spans, ctx.drop = spans, drop
        return out_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_THK: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        *parts_THK, logs_HT = ctx.saved_tensors
        means_HT = (slope_THK * parts_THK[-1]).sum(-1).T.contiguous()
        query, key, value = (part.transpose(0, 1) for part in parts_THK[:3])
        slope = slope_THK.transpose(0, 1)
        slopes_THK = [torch.zeros_like(slope_THK) for _ in range(3)]
        to_query, to_key, to_value = (each.transpose(0, 1) for each in slopes_THK)
        rooms = torch.empty(2, _SCORES)
        for piece in _pieces(ctx.spans, *logs_HT.shape[::-1]):
            queries, keys = (piece.heads, piece.queries), (piece.heads, piece.keys)
            scores, scores_slope = map(piece.shape, rooms)
            torch.bmm(query[queries], key[keys].mT, out=scores)
            torch.bmm(slope[queries], value[keys].mT, out=scores_slope)
            sums = (logs_HT[queries], means_HT[queries])
            _soften_back(piece, (scores, scores_slope), sums, ctx.drop, _scale(query))
            to_query[queries] = torch.bmm(scores_slope, key[keys])
            to_key[keys] += torch.bmm(scores_slope.mT, query[queries])
            to_value[keys] += torch.bmm(scores.mT, slope[queries])
        return *slopes_THK, None, None


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x_LD: Tensor,
        words_VD: Tensor,
        bias_V: Tensor,
        labels_L: Tensor,
    ) -> Tensor:
        slopes = (torch.empty_like(x_LD), torch.empty_like(words_VD), torch.zeros_like(bias_V))
        loss = _sum_losses(x_LD, words_VD, bias_V, labels_L, slopes)
        ctx.slopes = slopes
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        slopes, ctx.slopes = ctx.slopes, None
        if slopes is None:
            raise RuntimeError("the gradient of this loss was taken before, and is not kept")
        return *(each.mul_(slope) for each in slopes), None


def _sum_losses(
    x_LD: Tensor,
    words_VD: Tensor,
    bias_V: Tensor,
    labels_L: Tensor,
    slopes: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Sum the losses; write the gradients of the first three arguments where there is room."""
    losses_L = torch.empty(len(x_LD))
    room_RV = torch.empty(min(len(x_LD), max(1, _LOGITS // len(bias_V))), len(bias_V))
    for start in range(0, len(x_LD), len(room_RV)):
        x_RD = x_LD[start : start + len(room_RV)]
        part, logits_RV = slice(start, start + len(x_RD)), room_RV[: len(x_RD)]
        for first in range(0, len(bias_V), _WORDS):
            some = slice(first, first + _WORDS)
            torch.mm(x_RD, words_VD[some].T, out=logits_RV[:, some])
        _take_losses(logits_RV, bias_V, labels_L[part], losses_L[part])
        if slopes:
            to_x_LD, to_words_VD, to_bias_V = slopes
            torch.mm(logits_RV, words_VD, out=to_x_LD[part])
            to_words_VD.addmm_(logits_RV.T, x_RD, beta=float(start > 0))
            to_bias_V += logits_RV.sum(0)
    return losses_L.sum()


def _take_losses(logits_RV: Tensor, bias_V: Tensor, labels_R: Tensor, losses_R: Tensor) -> None:
    """Run `loops.cross_entropy` on a piece."""
    logits, bias, labels, losses = (x.numpy() for x in (logits_RV, bias_V, labels_R, losses_R))
    _spread(
        len(logits),
        lambda some: loops.cross_entropy(logits[some], bias, labels[some], losses[some]),
    )
