"""Attention reaches what it should, whichever way it is computed."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pretrain import attention
from pretrain.attention import Reach, attend, reach_of

LENGTH = 8


def test_bounds_by_hand() -> None:
    starts = torch.tensor([[0, 4], [0, 8]])
    bounds = reach_of(torch.tensor([6, 8]), starts, LENGTH, True).bounds_N
    assert bounds is not None
    assert bounds.tolist() == [0, 0, 4, 6, 8, 8, 16, 16, 16]
    assert bounds.dtype == torch.int32


def test_full_rows_need_nothing() -> None:
    assert reach_of(torch.tensor([8, 8]), None, LENGTH, False) == (None, None)


def test_no_mask_is_square() -> None:
    reach = reach_of(torch.tensor([6, 8]), None, LENGTH, True)
    assert reach.keys_B11S is not None
    assert reach.keys_B11S.shape == (2, 1, 1, LENGTH)
    isolated = reach_of(torch.tensor([6, 8]), torch.zeros(2, 1), LENGTH, True)
    assert isolated.keys_B11S is None


def by_hand(parts: list[Tensor], lengths: list[int], starts: list[list[int]] | None) -> Tensor:
    """Attention by its formula, with the square mask that the code under test avoids."""
    query, key, value = parts
    scores = torch.einsum("bqhk,bshk->bhqs", query, key) / query.shape[-1] ** 0.5
    for row, length in enumerate(lengths):
        begins = starts[row] if starts else [0]
        homes = torch.tensor([sum(place >= begin for begin in begins) for place in range(LENGTH)])
        allowed = (homes[:, None] == homes[None, :]) & (torch.arange(LENGTH) < length)
        scores[row].masked_fill_(~allowed, -torch.inf)
    return torch.einsum("bhqs,bshk->bqhk", scores.softmax(-1), value)


# The least dropout that there is: what it takes from the result is below its rounding.
NEARLY_NONE = 2.0**-32


# Our own attention takes what has dropout, torch's the rest.
@pytest.mark.parametrize("dropout", [0.0, NEARLY_NONE])
@given(data=st.data())
def test_tokens_reach_what_the_formula_lets_them(dropout: float, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, LENGTH), min_size=1, max_size=3))
    isolated = data.draw(st.booleans())
    starts = None
    if isolated:
        inner = st.sets(st.integers(1, LENGTH - 1), max_size=4)
        starts = [
            [0, *sorted(start for start in data.draw(inner) if start < length)]
            for length in lengths
        ]
    seed = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    parts = [torch.randn(len(lengths), LENGTH, 2, 4, generator=seed) for _ in range(3)]
    padded = None
    if starts:
        width = max(map(len, starts))
        padded = torch.tensor([one + [LENGTH] * (width - len(one)) for one in starts])
    sizes = torch.tensor(lengths, dtype=torch.int32)
    reach = reach_of(sizes, padded, LENGTH, min(lengths) < LENGTH)
    query, key, value = parts
    found = attend(query, key, value, reach, dropout)
    expected = by_hand(parts, lengths, starts)
    real = torch.arange(LENGTH) < sizes[:, None]
    assert (found - expected)[real].abs().max() < 1e-6
    assert found.isfinite().all()


def varlen(
    query: Tensor, key: Tensor, value: Tensor, bounds: Tensor, key_bounds: Tensor, *longest: int
) -> Tensor:
    """What torch says its variable-length kernel computes, one document after the other."""
    assert bounds.dtype == key_bounds.dtype == torch.int32
    assert max(longest) >= int(bounds.diff().max())
    out = torch.empty_like(query)
    for start, stop in pairwise(bounds.tolist()):
        some = slice(start, stop)
        scores = torch.einsum("qhk,shk->hqs", query[some], key[some]) / query.shape[-1] ** 0.5
        out[some] = torch.einsum("hqs,shk->qhk", scores.softmax(-1), value[some])
    assert stop == len(query)
    return out


@pytest.mark.parametrize("most", [65_535, 5, 9])
@pytest.mark.parametrize("starts", [None, [[0, 3, 5], [0, 8, 8]]])
def test_the_kernel_of_a_gpu_gets_the_bounds_of_documents(
    starts: list[list[int]] | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_MOST_DOCUMENTS", most)
    monkeypatch.setattr(attention, "_has_kernel", lambda query: True)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    generator, lengths = torch.Generator().manual_seed(0), [6, 8]
    query, key, value = (torch.randn(2, LENGTH, 2, 4, generator=generator) for _ in range(3))
    places = None if starts is None else torch.tensor(starts)
    found = attend(query, key, value, reach_of(torch.tensor(lengths), places, LENGTH, True), 0.0)
    real = torch.arange(LENGTH) < torch.tensor(lengths)[:, None]
    expected = by_hand([query, key, value], lengths, starts)
    assert (found - expected)[real].abs().max() < 1e-6


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("isolated", [False, True])
def test_the_kernel_of_a_gpu_takes_what_it_is_given(
    isolated: bool, is_cut: bool, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On `meta` torch's own kernels check types and shapes, both ways, and compute nothing.

    What asks for a value fails there, as it would wait on a GPU.
    """
    monkeypatch.setattr(attention, "_has_kernel", lambda query: True)
    monkeypatch.setattr(attention, "_MOST_DOCUMENTS", 5 if is_cut else 65_535)
    parts = torch.empty(3, 2, LENGTH, 2, 64, device="meta", dtype=torch.bfloat16)
    query, key, value = parts.requires_grad_().unbind()
    lengths = torch.empty(2, dtype=torch.int64, device="meta")
    starts = torch.empty(2, 3, dtype=torch.int64, device="meta") if isolated else None
    found = attend(query, key, value, reach_of(lengths, starts, LENGTH, True), dropout)
    (gradient,) = torch.autograd.grad(found.float().sum(), parts)
    assert (found.shape, found.dtype) == (query.shape, torch.bfloat16)
    assert (gradient.shape, gradient.dtype) == (parts.shape, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_kernel_of_a_gpu_drops_out() -> None:
    """Every draw differs, as its seed says; their mean, and that of gradients, is without."""
    torch.manual_seed(0)
    whole = torch.randn(3, 1, LENGTH, 1, 64, device="cuda", dtype=torch.bfloat16)
    # All heads are alike, so that each is another draw.
    query, key, value = whole.repeat(1, 1, 1, 512, 1).requires_grad_()
    starts = torch.tensor([[0, 3]], device="cuda")
    reach = reach_of(torch.tensor([LENGTH], device="cuda"), starts, LENGTH, False)
    plain, found = (attend(query, key, value, reach, dropout) for dropout in (0.0, 0.1))
    assert (found.float().std(2) > 0.01).any()
    assert (found.float().mean(2) - plain.float().mean(2)).abs().max() < 0.1
    again, same = (_seeded(query, key, value, reach) for _ in range(2))
    assert torch.equal(again, same)
    assert not torch.equal(again, found)
    wanted, gradient = (
        torch.autograd.grad(out.float().sum(), value)[0].float().mean(2) for out in (plain, again)
    )
    assert (gradient - wanted).abs().max() < 0.1 * wanted.abs().max()


def _seeded(query: Tensor, key: Tensor, value: Tensor, reach: Reach) -> Tensor:
    torch.manual_seed(1)
    return attend(query, key, value, reach, 0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("starts", [None, [[0, 3, 5], [0, 8, 8]]])
def test_the_kernel_of_a_gpu_agrees(starts: list[list[int]] | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, LENGTH, 2, 64, generator=generator) for _ in range(3))
    lengths = torch.tensor([6, 8])
    places = None if starts is None else torch.tensor(starts)
    expected = attend(query, key, value, reach_of(lengths, places, LENGTH, True), 0.0)
    query, key, value = (part.to("cuda", torch.bfloat16) for part in (query, key, value))
    where = None if places is None else places.cuda()
    found = attend(query, key, value, reach_of(lengths.cuda(), where, LENGTH, True), 0.0)
    real = torch.arange(LENGTH) < lengths[:, None]
    assert (found.float().cpu() - expected)[real].abs().max() < 0.03
