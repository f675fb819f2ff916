"""What torch is slow at on a CPU: dropout, attention with it, and the loss of a vocabulary.

Torch draws dropouts one after the other from a generator, 9 ns each; its attention with dropout is
no single kernel but makes five tensors of rows x heads x S x S, and the loss makes three of slots x
vocabulary. Here matrix products are torch's, on pieces that stay in a processor's cache; what comes
between them is done in place, once, by the loops of loops.py. Attention keeps its sums' logarithms
and makes its scores again going backward (Dao et al. 2022, "FlashAttention"); the loss takes its
gradient at once while a piece of logits is at hand, so that none is kept. A dropout is a hash of a
seed drawn from torch's generator, made again where the backward pass needs it.

For tensors of other types and on other devices the model takes torch's own functions, and for
attention without dropout, where torch's kernel for a CPU is faster than this. Torch's compiler goes
around these functions. Sums differ from torch's in rounding; dropouts are others of the same
distribution.

In bfloat16 what a matrix product gives is rounded, scores and logits too; sums of several products
are in fp32. Its kernels for AMX, compiled for each shape and kept, would take a gigabyte for all
lengths of rows: so tokens are padded with zeros to a multiple.

Shapes: T tokens of all rows, H heads, K width of a head, P documents, N tokens of a document; a
piece of attention has G heads, those of all its documents, and Q queries of each; L slots of all
rows and R those of a piece, D width, V vocabulary.
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
from torch._compile import _disable_dynamo
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pretrain import loops

# How many numbers a piece has, measured on one core of an AMD EPYC (AVX2, 2026-11), widths 128 to
# 768: attention costs 4 % more with half as many scores and as much with eight times as many; the
# loss 3 % more with half as many logits and 3 % less with twice as many, 64 MB more. Logits are
# made by some entries at a time: MKL makes 58 x 10^9 operations of all at once, 80 of these. In
# bfloat16 with AMX (an Intel Xeon, 2026-11) the loss takes 1.3 times as long with half as many.
_SCORES = 2**20
_TILE = 32  # tokens; AMX multiplies 16 rows by 32 numbers
_LOGITS = 2**26  # bytes
_WORDS = 2048
_LEAST = 2**16  # numbers that are worth a thread: it takes about as long to wake one. A guess.

Spans = Sequence[tuple[int, int]]  # where documents begin and end among the tokens


def is_fused(x: Tensor) -> bool:
    """Tell whether these functions take a tensor."""
    return x.dtype in (torch.float32, torch.bfloat16) and x.device.type == "cpu"


@_disable_dynamo
def drop_out(x: Tensor, probability: float) -> Tensor:
    """Set numbers (two axes or more) to zero with this probability; enlarge the others for it."""
    if probability == 0:
        return x
    return _Dropout.apply(x, draw_dropout(probability))  # type: ignore[no-any-return, no-untyped-call]


def attend_spans(
    query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, spans: Spans, probability: float
) -> Tensor:
    """Attend within spans: [T, H, K]; zeros outside of them."""
    drop = draw_dropout(probability)
    return _Attention.apply(query_THK, key_THK, value_THK, spans, drop)  # type: ignore[no-any-return, no-untyped-call]


@_disable_dynamo
def summed_loss(x_LD: Tensor, words_VD: Tensor, bias_V: Tensor, labels_L: Tensor) -> Tensor:
    """Sum the cross-entropies, nats, of the logits x words + bias; negative labels have none.

    The gradient can be taken once.
    """
    assert bool((labels_L < len(bias_V)).all()), "a label is no entry of the vocabulary"
    if torch.is_grad_enabled():
        return _SummedLoss.apply(x_LD, words_VD, bias_V, labels_L)  # type: ignore[no-any-return, no-untyped-call]
    return _sum_losses(x_LD, words_VD, bias_V, labels_L)


def draw_dropout(probability: float) -> loops.Drop:
    """Draw a dropout from torch's generator; none is drawn for a probability of 0."""
    seed = int(torch.randint(2**63 - 1, ())) if probability else 0
    limit = min(round(probability * 2**32), 2**32 - 1)
    growth = 0.0 if probability == 1 else 1 / (1 - probability)
    return loops.Drop(np.uint32(limit), np.float32(growth), np.uint64(seed))


def _spread(shape: Sequence[int], work: Callable[[slice], None]) -> None:
    """Do work on the first axis of an array, in parts at once where torch has several threads."""
    threads = min(shape[0], torch.get_num_threads(), math.prod(shape) // _LEAST)
    if threads <= 1:
        work(slice(0, shape[0]))
        return
    edges = (shape[0] * at // threads for at in range(threads + 1))
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
    source, target = (_numbers(each.flatten(0, -2)) for each in (x, out))
    _spread(source.shape, lambda some: loops.drop_out(source[some], target[some], drop, some.start))
    return out


def _numbers(x: Tensor) -> np.ndarray[Any, Any]:
    """View a tensor as the loops take it: bfloat16 by its bits."""
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


class _Piece(NamedTuple):
    """Documents of one size, whole, or some heads of some queries of one document."""

    start: int  # of the first document among the tokens
    documents: int
    size: int  # tokens of a document
    heads: slice
    queries: slice

    def of(self, x_THK: Tensor, some: slice) -> Tensor:
        """View the piece's heads, at some tokens of each document: [documents, heads, some, K]."""
        x_PNHK = x_THK[self._tokens].view(self.documents, self.size, *x_THK.shape[1:])
        return x_PNHK.transpose(1, 2)[:, self.heads, some]

    def padded(self, x_THK: Tensor, some: slice) -> Tensor:
        """Give these tokens of all heads, and zeros up to a multiple: [G, some, K]."""
        x_PHNK = self.of(x_THK, some)
        rest = -x_PHNK.shape[2] % _multiple(x_THK)
        return (functional.pad(x_PHNK, (0, 0, 0, rest)) if rest else x_PHNK).flatten(0, 1)

    def queries_of(self, x_TH: Tensor) -> Tensor:
        """View one number for each query and head: [G, Q]; they lie by document and head."""
        x_PHN = x_TH[self._tokens].view(self.documents, x_TH.shape[1], self.size)
        return x_PHN[:, self.heads, self.queries].flatten(0, 1)

    def rows(self, heads: int) -> tuple[int, int, int]:
        """Number the queries as `queries_of` has them: the first, from head to head, the keys."""
        first = self.start * heads + self.heads.start * self.size + self.queries.start
        return first, self.size, self.size

    def room(self, multiple: int) -> int:
        """Count the scores, with padding."""
        queries, heads = (some.stop - some.start for some in (self.queries, self.heads))
        queries, keys = (size + -size % multiple for size in (queries, self.size))
        return int(self.documents * heads * queries * keys)

    @property
    def is_cut(self) -> bool:
        """Tell whether these are not all queries of the document."""
        return self.queries != slice(0, self.size)

    @property
    def _tokens(self) -> slice:
        return slice(self.start, self.start + self.documents * self.size)


_KEYS = slice(None)


def _multiple(x: Tensor) -> int:
    """Tell to what multiple a piece's tokens are padded with zeros."""
    return _TILE if x.dtype == torch.bfloat16 else 1


def _pieces(spans: Spans, heads: int) -> Iterator[_Piece]:
    """Cut attention so that the scores of a piece are at most `_SCORES`, without padding."""
    for start, documents, size in _alike(spans, heads):
        queries = max(1, min(size, _SCORES // size))
        together = max(1, min(heads, _SCORES // (size * queries)))
        for head in range(0, heads, together):
            some = slice(head, min(head + together, heads))
            for begin in range(0, size, queries):
                part = slice(begin, min(begin + queries, size))
                yield _Piece(start, documents, size, some, part)


def _alike(spans: Spans, heads: int) -> Iterator[tuple[int, int, int]]:
    """Give (start, documents, size) of neighbours of one size that together make one piece."""
    start = documents = size = 0
    for begin, stop in spans:
        is_next = begin == start + documents * size and stop - begin == size
        if is_next and (documents + 1) * heads * size * size <= _SCORES:
            documents += 1
            continue
        if documents:
            yield start, documents, size
        start, documents, size = begin, 1, stop - begin
    if documents:
        yield start, documents, size


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
        heads, scale = query_THK.shape[1], np.float32(query_THK.shape[2] ** -0.5)
        out_THK = torch.zeros_like(query_THK, memory_format=torch.contiguous_format)
        logs_TH, pieces = torch.empty(out_THK.shape[:2]), list(_pieces(spans, heads))
        (room,) = _rooms(1, pieces, out_THK)
        for piece in pieces:
            query = piece.padded(query_THK, piece.queries)
            key, value = (piece.padded(x, _KEYS) for x in (key_THK, value_THK))
            scores = _multiply(query, key, room)
            logs = piece.queries_of(logs_TH)
            _soften(scores, logs, drop, piece.rows(heads), scale)
            out = piece.of(out_THK, piece.queries)
            out.copy_(_like(torch.bmm(scores, value), out))
        ctx.save_for_backward(query_THK, key_THK, value_THK, out_THK, logs_TH)
        ctx.spans, ctx.drop, ctx.scale = spans, drop, scale
        return out_THK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope_THK: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        query_THK, key_THK, value_THK, out_THK, logs_TH = ctx.saved_tensors
        heads, kind = logs_TH.shape[1], out_THK.dtype
        pieces = list(_pieces(ctx.spans, heads))
        rooms = _rooms(2, pieces, out_THK)
        # Of a document that is cut several pieces are summed.
        sum_kind = torch.float32 if any(piece.is_cut for piece in pieces) else kind
        slopes_THK = [torch.zeros_like(out_THK, dtype=sum_kind) for _ in range(3)]
        for piece in pieces:
            at_queries = (query_THK, slope_THK)
            query, slope = (piece.padded(x, piece.queries) for x in at_queries)
            key, value = (piece.padded(x, _KEYS) for x in (key_THK, value_THK))
            pair = (_multiply(query, key, rooms[0]), _multiply(slope, value, rooms[1]))
            moved, out = (piece.of(x, piece.queries).float() for x in (slope_THK, out_THK))
            sums = (piece.queries_of(logs_TH), (moved * out).sum(-1).flatten(0, 1))
            _soften_back(pair, sums, ctx.drop, piece.rows(heads), ctx.scale)
            scores, scores_slope = pair
            found = (
                torch.bmm(scores_slope, key),
                torch.bmm(scores_slope.mT, query),
                torch.bmm(scores.mT, slope),
            )
            places = (piece.queries, _KEYS, _KEYS)
            for whole_THK, place, part in zip(slopes_THK, places, found, strict=True):
                target = piece.of(whole_THK, place)
                target += _like(part, target)
        return *(each.to(kind) for each in slopes_THK), None, None


def _rooms(count: int, pieces: Sequence[_Piece], like: Tensor) -> Tensor:
    """Make rooms for the scores of any piece."""
    multiple = _multiple(like)
    return like.new_empty(count, max((piece.room(multiple) for piece in pieces), default=0))


def _like(x_GNK: Tensor, target_PHNK: Tensor) -> Tensor:
    """View what a piece has for its target, without padding."""
    documents, heads, some, width = target_PHNK.shape
    return x_GNK.view(documents, heads, -1, width)[:, :, :some]


def _multiply(left_GQK: Tensor, right_GNK: Tensor, room: Tensor) -> Tensor:
    """Multiply rows with rows, in some room: [G, Q, N]."""
    shape = (*left_GQK.shape[:2], right_GNK.shape[1])
    return torch.bmm(left_GQK, right_GNK.mT, out=room[: math.prod(shape)].view(shape))


def _soften(
    scores_GQN: Tensor,
    logs_GQ: Tensor,
    drop: loops.Drop,
    rows: tuple[int, int, int],
    scale: np.float32,
) -> None:
    """Run `loops.softmax` on a piece."""
    scores, logs = _numbers(scores_GQN), logs_GQ.numpy()

    def work(some: slice) -> None:
        first = rows[0] + some.start * rows[1]
        loops.softmax(scores[some], logs[some], drop, (first, *rows[1:]), scale)

    _spread(scores.shape, work)


def _soften_back(
    scores_GQN: tuple[Tensor, Tensor],
    sums_GQ: tuple[Tensor, Tensor],
    drop: loops.Drop,
    rows: tuple[int, int, int],
    scale: np.float32,
) -> None:
    """Run `loops.softmax_gradient` on a piece."""
    scores, slopes, logs, means = (_numbers(each) for each in (*scores_GQN, *sums_GQ))

    def work(some: slice) -> None:
        first = rows[0] + some.start * rows[1]
        sums, numbers = (logs[some], means[some]), (first, *rows[1:])
        loops.softmax_gradient(scores[some], slopes[some], sums, drop, numbers, scale)

    _spread(scores.shape, work)


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x_LD: Tensor,
        words_VD: Tensor,
        bias_V: Tensor,
        labels_L: Tensor,
    ) -> Tensor:
        to_words, to_bias = (torch.zeros(each.shape) for each in (words_VD, bias_V))
        slopes = (torch.empty_like(x_LD), to_words, to_bias)
        loss = _sum_losses(x_LD, words_VD, bias_V, labels_L, slopes)
        ctx.slopes, ctx.kind = slopes, x_LD.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        slopes, ctx.slopes = ctx.slopes, None
        if slopes is None:
            raise RuntimeError("the gradient of this loss was taken before, and is not kept")
        return *(each.mul_(slope).to(ctx.kind) for each in slopes), None


def _sum_losses(
    x_LD: Tensor,
    words_VD: Tensor,
    bias_V: Tensor,
    labels_L: Tensor,
    slopes: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """Sum the losses; write the gradients of the first three arguments where there is room."""
    losses_L = torch.empty(len(x_LD))
    pieces = max(1, math.ceil(len(x_LD) * len(bias_V) * x_LD.element_size() / _LOGITS))
    rows = max(1, math.ceil(len(x_LD) / pieces))
    room_RV = x_LD.new_empty(rows, len(bias_V))
    for start in range(0, len(x_LD), rows):
        x_RD = x_LD[start : start + rows]
        part, logits_RV = slice(start, start + len(x_RD)), room_RV[: len(x_RD)]
        for first in range(0, len(bias_V), _WORDS):
            some = slice(first, first + _WORDS)
            torch.mm(x_RD, words_VD[some].T, out=logits_RV[:, some])
        _take_losses(logits_RV, bias_V, labels_L[part], losses_L[part])
        if slopes:
            to_x_LD, to_words_VD, to_bias_V = slopes
            torch.mm(logits_RV, words_VD, out=to_x_LD[part])
            _add_product(to_words_VD, logits_RV.T, x_RD)
            to_bias_V += logits_RV.sum(0)
    return losses_L.sum()


def _add_product(sum_VD: Tensor, left_VR: Tensor, right_RD: Tensor) -> None:
    """Add a product to a sum in fp32; of bfloat16 the product is rounded, the sum is not."""
    if left_VR.dtype == sum_VD.dtype:
        sum_VD.addmm_(left_VR, right_RD)
    else:
        sum_VD += torch.mm(left_VR, right_RD)


def _take_losses(logits_RV: Tensor, bias_V: Tensor, labels_R: Tensor, losses_R: Tensor) -> None:
    """Run `loops.cross_entropy` on a piece."""
    tensors = (logits_RV, bias_V.float(), labels_R, losses_R)
    logits, bias, labels, losses = map(_numbers, tensors)
    _spread(
        logits.shape,
        lambda some: loops.cross_entropy(logits[some], bias, labels[some], losses[some]),
    )
