"""Dropout, attention and the loss on a CPU against torch's own, whole and cut into pieces."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pretrain import fused, loops
from pretrain.fused import attend_spans, drop_out, is_fused, summed_loss


def random_tensors(count: int, *shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator).requires_grad_() for _ in range(count)]


def attend_by_formula(
    parts: list[Tensor], spans: list[tuple[int, int]], probability: float
) -> Tensor:
    """Attention with a square matrix a document, and the dropout that the seed gives."""
    drop = fused.draw_dropout(probability)
    query, key, value = (part.double().transpose(0, 1) for part in parts)
    heads, _, width = query.shape
    out = 0 * (query + key + value)
    for start, stop in spans:
        kept = np.empty((heads, stop - start, stop - start), np.float32)
        for head in range(heads):
            first = start * heads + head * (stop - start)
            loops.drop_out(np.ones_like(kept[head]), kept[head], drop, first)
        some = slice(start, stop)
        scores = query[:, some] @ key[:, some].mT / width**0.5
        out[:, some] = (scores.softmax(-1) * torch.from_numpy(kept)) @ value[:, some]
    return out.transpose(0, 1)


def gradients_of(result: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    """Differentiate a sum of the result in which every number has its own weight."""
    weights = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view(result.shape)
    return list(torch.autograd.grad((result * weights).sum(), tensors))


@pytest.mark.parametrize("probability", [0.0, 0.3])
@pytest.mark.parametrize(
    "scores", [2**20, 300, 100, 7]
)  # whole, some documents, heads, queries; one
@given(data=st.data())
def test_attention_is_that_of_its_formula(
    scores: int, probability: float, data: st.DataObject
) -> None:
    tokens = data.draw(st.integers(1, 24))
    cuts = sorted({0, tokens, *data.draw(st.sets(st.integers(0, tokens), max_size=4))})
    if data.draw(st.booleans()):
        cuts = list(range(0, tokens + 1, data.draw(st.integers(1, tokens))))
    spans = [pair for pair in pairwise(cuts) if data.draw(st.integers(0, 3))]
    parts = random_tensors(3, tokens, 3, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "_SCORES", max(scores, tokens))
        torch.manual_seed(5)
        found = attend_spans(parts[0], parts[1], parts[2], spans, probability)
        slopes = gradients_of(found, parts)
    torch.manual_seed(5)
    expected = attend_by_formula(parts, spans, probability)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    for one, other in zip(slopes, gradients_of(expected, parts), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def distance(found: Tensor, expected: Tensor) -> float:
    """The error of all numbers together, relative to their size."""
    error = (found.detach() - expected.detach()).norm() / expected.detach().norm()
    return float(error)


# One document or several in a piece, heads or queries of one; 32, as tokens are padded to.
@pytest.mark.parametrize("scores", [2**20, 96**2, 64 * 96])
@pytest.mark.parametrize("lengths", [[70, 33, 33, 64], [96], [1, 1, 95]])
def test_attention_in_bfloat16_is_that_of_its_formula(
    lengths: list[int], scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_SCORES", scores)
    tokens = sum(lengths)
    halves = [
        part.detach().bfloat16().requires_grad_() for part in random_tensors(3, tokens + 5, 3, 16)
    ]
    spans = list(pairwise(np.cumsum([0, *lengths]).tolist()))  # the last five in none
    torch.manual_seed(5)
    found = attend_spans(halves[0], halves[1], halves[2], spans, 0.3)
    slopes = gradients_of(found.float(), halves)
    torch.manual_seed(5)
    expected = attend_by_formula(halves, spans, 0.3)
    assert {each.dtype for each in (found, *slopes)} == {torch.bfloat16}
    assert not found[tokens:].any()
    assert distance(found, expected) < 0.01
    for one, other in zip(slopes, gradients_of(expected, halves), strict=True):
        assert not one[tokens:].any()
        assert distance(one, other) < 0.02


def test_sizes_of_documents_share_shapes_in_bfloat16() -> None:
    """The kernels of AMX are compiled for each shape and kept: odd ones would fill memory."""
    x = torch.randn(3 * 70, 2, 16, dtype=torch.bfloat16)
    (piece,) = fused._pieces([(7, 7 + 70)], 2)
    padded = piece.padded(x, slice(None))
    assert padded.shape == (2, 96, 16)
    assert torch.equal(padded[:, :70], x[7:77].transpose(0, 1))
    assert not padded[:, 70:].any()
    assert piece.padded(x.float(), slice(None)).shape == (2, 70, 16)


def test_a_piece_has_no_more_scores_than_may_be() -> None:
    for lengths, heads in (([512] * 20, 12), ([64] * 99, 4), ([9, 9, 7, 7, 9], 1), ([40_000], 2)):
        edges = [0, *np.cumsum(lengths).tolist()]
        pieces = list(fused._pieces(list(pairwise(edges)), heads))
        queries = 0
        for piece in pieces:
            some = (piece.heads.stop - piece.heads.start) * (
                piece.queries.stop - piece.queries.start
            )
            assert piece.documents * some * piece.size <= fused._SCORES
            queries += piece.documents * some
        assert queries == sum(lengths) * heads
        if lengths[0] == 64:
            assert len(pieces) == 2
        if len(lengths) == 5:
            assert [(piece.documents, piece.size) for piece in pieces] == [(2, 9), (2, 7), (1, 9)]


@pytest.mark.parametrize(("logits", "words"), [(2**26, 2048), (240, 7), (4, 1)])
def test_the_loss_and_its_gradients_are_those_of_torch(
    logits: int, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_LOGITS", logits)
    monkeypatch.setattr(fused, "_WORDS", words)
    (x,), (table,), (bias,) = (random_tensors(1, *shape) for shape in ((11, 6), (20, 6), (20,)))
    labels = torch.arange(11) + 3
    labels[4] = -100
    tensors = [x, table, bias]
    found = summed_loss(x, table, bias, labels)
    every = torch.nn.functional.linear(x.double(), table.double(), bias.double())
    expected = torch.nn.functional.cross_entropy(every, labels, reduction="sum")
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    slopes = torch.autograd.grad(found * 0.25, tensors)
    for one, other in zip(slopes, torch.autograd.grad(expected * 0.25, tensors), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    with torch.no_grad():
        assert summed_loss(x, table, bias, labels) == found


@pytest.mark.parametrize("logits", [2**26, 400])
def test_the_loss_in_bfloat16_sums_its_gradients_in_fp32(
    logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_LOGITS", logits)
    shapes = ((1000, 32), (20, 32), (20,))
    tensors = [
        (random_tensors(1, *shape)[0].detach() * 0.5).bfloat16().requires_grad_()
        for shape in shapes
    ]
    x, table, bias = tensors
    labels = torch.arange(1000) % 20
    labels[:7] = -100
    found = summed_loss(x, table, bias, labels)
    every = torch.nn.functional.linear(x.double(), table.double(), bias.double())
    expected = torch.nn.functional.cross_entropy(every, labels, reduction="sum")
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)
    slopes = torch.autograd.grad(found * 0.25, tensors)
    assert {each.dtype for each in slopes} == {torch.bfloat16}
    for one, other in zip(slopes, torch.autograd.grad(expected * 0.25, tensors), strict=True):
        # 100 pieces of 10 rows, summed in bfloat16, would be 0.02 off.
        assert distance(one, other) < 0.006


def test_the_gradient_of_a_loss_is_taken_once() -> None:
    x, table = random_tensors(2, 5, 5)
    loss = summed_loss(x, table, torch.zeros(5), torch.arange(5))
    loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="taken before"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_a_label_beyond_the_vocabulary_is_refused() -> None:
    x, table = random_tensors(2, 5, 5)
    with pytest.raises(AssertionError, match="no entry"):
        summed_loss(x, table, torch.zeros(5), torch.arange(5) + 1)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_dropout_acts_backward_as_forward(kind: torch.dtype) -> None:
    x = random_tensors(1, 40, 3, 50)[0].detach().to(kind).requires_grad_()
    torch.manual_seed(1)
    found = drop_out(x, 0.2)
    gone = found == 0
    assert 0.1 < gone.float().mean() < 0.3
    assert torch.equal(found[~gone], x[~gone] * 1.25)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(slope, torch.where(gone, 0.0, 1.25))
    torch.manual_seed(1)
    assert torch.equal(drop_out(x.mT.contiguous().mT, 0.2), found)  # however it lies
    assert not torch.equal(drop_out(x, 0.2), found)


def test_dropouts_of_nothing_and_of_all() -> None:
    (x,) = random_tensors(1, 30, 40)
    state = torch.get_rng_state()
    assert drop_out(x, 0) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert not drop_out(x, 1).any()


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_LEAST", 10)
    parts = random_tensors(3, 30, 5, 4)
    (x,) = random_tensors(1, 7, 3)
    works: list[Callable[[], Tensor]] = [
        lambda: attend_spans(parts[0], parts[1], parts[2], [(0, 30)], 0.3),
        lambda: drop_out(x, 0.3),
        lambda: summed_loss(x, parts[0][:8, 0, :3], torch.zeros(8), torch.arange(7)),
    ]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(2)
            results = [work() for work in works]
            slopes = torch.autograd.grad(sum(each.sum() for each in results), [*parts, x])  # type: ignore[arg-type]
            found.append([*results, *slopes])
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_other_tensors_are_left_to_torch() -> None:
    assert is_fused(torch.zeros(1))
    assert is_fused(torch.zeros(1, dtype=torch.bfloat16))
    assert not is_fused(torch.zeros(1, dtype=torch.float16))
    assert not is_fused(torch.zeros(1, device="meta"))
