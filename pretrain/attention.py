"""Attention of the tokens of a row over its real tokens, or over those of their own document.

No S x S mask is ever made. Full rows need none; padded rows take a row of S bits, or on a GPU in
bf16 their bounds, as isolated documents do. These are laid end to end and cut at their bounds: by
torch's variable-length kernel on such a GPU, else by one call a document (a matter of correctness,
not of speed: the kernel knows no fp32 and no CPU). With dropout on a CPU in fp32, which torch has
no kernel for, rows, their real tokens or their documents are cut out and computed by fused.py.

Shapes: B rows, S tokens a row, H heads, K width of a head, P documents a row, padded with S,
N bounds of documents, T = B x S tokens.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo
from torch.nn import functional

from pretrain.fused import Spans, attend_spans, is_fused

# The kernel puts them on the second axis of a grid, which CUDA gives 65,535 places (CUDA C++
# Programming Guide, technical specifications by compute capability).
_MOST_DOCUMENTS = 65_535


class Reach(NamedTuple):
    """What the tokens of some rows attend to; all of their row where both are absent."""

    keys_B11S: Tensor | None
    bounds_N: Tensor | None


def reach_of(
    lengths_B: Tensor, starts_BP: Tensor | None, row_length: int, has_padding: bool
) -> Reach:
    """Tell what tokens attend to, from row lengths and, to isolate them, document starts."""
    if starts_BP is not None:
        return Reach(None, _bounds(lengths_B, starts_BP, row_length))
    if not has_padding:
        return Reach(None, None)
    places_S = torch.arange(row_length, device=lengths_B.device)
    keys_B11S = (places_S < lengths_B[:, None])[:, None, None, :]
    whole_B1 = torch.zeros_like(lengths_B)[:, None]
    return Reach(keys_B11S, _bounds(lengths_B, whole_B1, row_length))


def _bounds(lengths_B: Tensor, starts_BP: Tensor, row_length: int) -> Tensor:
    """Give where documents begin among the tokens of all rows; the padding of a row is one too.

    Their number is that of the tensors' shapes alone; some documents are empty.
    Length 8, rows of 6 and 8 tokens, starts [[0, 4], [0, 8]] -> [0, 0, 4, 6, 8, 8, 16, 16, 16]
    """
    lengths_B1 = lengths_B[:, None].to(torch.int32)
    starts_BP = torch.minimum(starts_BP.to(torch.int32), lengths_B1)
    rows_B = torch.arange(len(lengths_B), dtype=torch.int32, device=lengths_B.device) * row_length
    zero_B1 = torch.zeros_like(lengths_B1)
    begins = torch.cat([zero_B1, starts_BP, lengths_B1], dim=1) + rows_B[:, None]
    return functional.pad(begins.flatten(), (0, 1), value=len(lengths_B) * row_length)


def attend(
    query_BSHK: Tensor, key_BSHK: Tensor, value_BSHK: Tensor, reach: Reach, dropout: float
) -> Tensor:
    """Attend: [B, S, H, K]. What padding gets is unspecified, but finite."""
    rows, length = query_BSHK.shape[:2]
    parts = (query_BSHK, key_BSHK, value_BSHK)
    query_THK, key_THK, value_THK = (part.flatten(0, 1) for part in parts)
    bounds = reach.bounds_N
    if dropout > 0 and is_fused(query_BSHK):
        out_THK = _attend_fused((query_THK, key_THK, value_THK), reach, rows, dropout)
    elif bounds is not None and _has_kernel(query_BSHK):
        out_THK = _attend_cut((query_THK, key_THK, value_THK), bounds, length, dropout)
    elif bounds is not None and reach.keys_B11S is None:
        out_THK = _attend_each(query_THK, key_THK, value_THK, bounds, dropout)
    else:
        return _attend_rows(*parts, reach.keys_B11S, dropout)
    return out_THK.view(rows, length, *out_THK.shape[1:])


@_disable_dynamo
def _attend_fused(
    parts: tuple[Tensor, Tensor, Tensor], reach: Reach, rows: int, dropout: float
) -> Tensor:
    return attend_spans(*parts, _spans(reach, rows, len(parts[0]) // rows), dropout)


def _spans(reach: Reach, rows: int, length: int) -> Spans:
    """List where documents begin and end, padding and empty ones left out."""
    if reach.bounds_N is None:
        return [(start, start + length) for start in range(0, rows * length, length)]
    every = (len(reach.bounds_N) - 1) // rows  # the last of a row is its padding
    spans = enumerate(pairwise(reach.bounds_N.tolist()), 1)
    return [(start, stop) for at, (start, stop) in spans if start < stop and at % every]


def _has_kernel(query: Tensor) -> bool:
    return query.is_cuda and query.dtype == torch.bfloat16


def _attend_cut(
    parts: tuple[Tensor, Tensor, Tensor], bounds_N: Tensor, length: int, dropout: float
) -> Tensor:
    """Attend by the kernel, over as many rows at a time as it takes documents."""
    rows = len(parts[0]) // length
    every = (len(bounds_N) - 1) // rows
    most = _MOST_DOCUMENTS // every
    if rows <= most:  # slices of all would cost gradients of their own
        return _attend_documents(parts, bounds_N, length, dropout)
    found = []
    for first in range(0, rows, most):
        last = min(rows, first + most)
        bounds = bounds_N[first * every : last * every + 1] - first * length
        query, key, value = (part[first * length : last * length] for part in parts)
        found.append(_attend_documents((query, key, value), bounds, length, dropout))
    return torch.cat(found)


def _attend_documents(
    parts: tuple[Tensor, Tensor, Tensor], bounds_N: Tensor, longest: int, dropout: float
) -> Tensor:
    if dropout > 0:
        # What `varlen_attn` calls, which drops nothing out (torch 2.13).
        out, *_ = torch.ops.aten._flash_attention_forward(
            *parts, bounds_N, bounds_N, longest, longest, dropout, False, False
        )
    else:
        # It loads torch's compiler: a third of the time that a command takes to start.
        from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415

        out = varlen_attn(*parts, bounds_N, bounds_N, longest, longest)
    assert isinstance(out, Tensor)
    return out


def _attend_rows(
    query: Tensor, key: Tensor, value: Tensor, keys_B11S: Tensor | None, dropout: float
) -> Tensor:
    out_BHSK = functional.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=keys_B11S,
        dropout_p=dropout,
    )
    return out_BHSK.transpose(1, 2)


# Sizes differ from batch to batch: compiled, every batch would be compiled anew. By torch's own
# decorator, for `torch.compiler.disable` loads the compiler at once: a third of what commands that
# do not train take to start.
@_disable_dynamo
def _attend_each(
    query_THK: Tensor, key_THK: Tensor, value_THK: Tensor, bounds_N: Tensor, dropout: float
) -> Tensor:
    sizes = [size for size in bounds_N.diff().tolist() if size]
    # Split and joined once: slices would each fill a gradient of the whole size.
    parts = (query_THK, key_THK, value_THK)
    documents = zip(*(torch.split(part, sizes) for part in parts), strict=True)
    return torch.cat(
        [
            _attend_rows(query[None], key[None], value[None], None, dropout)[0]
            for query, key, value in documents
        ]
    )
