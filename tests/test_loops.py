"""The loops of a training step on a CPU, against torch, numpy and a plain hash."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mask_reference import splitmix64
from numpy.typing import NDArray
from torch import Tensor

from pretrain.loops import Drop, cross_entropy, drop_out, exponential, softmax, softmax_gradient

Floats = NDArray[np.float32]
GOLDEN = 0x9E3779B97F4A7C15
SEEDED = torch.Generator().manual_seed(1)


def drop_of(probability: float, seed: int = 7) -> Drop:
    growth = np.float32(1 / (1 - probability))
    return Drop(np.uint32(round(probability * 2**32)), growth, np.uint64(seed))


NONE = drop_of(0)


def kept(drop: Drop, rows: int, columns: int, first: int = 0) -> NDArray[np.bool_]:
    """What a dropout leaves of ones."""
    out = np.empty((rows, columns), np.float32)
    drop_out(np.ones_like(out), out, drop, first)
    assert set(np.unique(out)) <= {np.float32(0), drop.growth}
    found: NDArray[np.bool_] = out > 0
    return found


def test_exponentials_are_right_to_the_last_bits() -> None:
    x = np.linspace(-87, 0, 200_001).astype(np.float32)
    scores, logs = np.stack([x, x])[None, :, :20], np.empty((1, 2), np.float32)
    softmax(scores, logs, NONE, (0, 2, 20), np.float32(1))  # compiled for a caller first
    found = np.array([exponential(each) for each in x])
    expected = np.exp(x.astype(np.float64))
    assert np.abs(found / expected - 1).max() < 2.0**-23
    assert exponential(np.float32(0)) == 1
    assert exponential(np.float32(-1e9)) == exponential(np.float32(-87)) > 0


@given(st.integers(1, 40), st.floats(-50, 50), st.floats(0.01, 30), st.integers(0, 99))
def test_softmax_is_that_of_torch(columns: int, middle: float, spread: float, seed: int) -> None:
    scores = np.random.default_rng(seed).normal(middle, spread, (2, 3, columns))
    found, logs = scores.astype(np.float32), np.empty((2, 3), np.float32)
    expected = torch.from_numpy(found.copy()).double() * 0.5
    softmax(found, logs, NONE, (0, 3, columns), np.float32(0.5))
    assert np.allclose(found, expected.softmax(-1), atol=1e-6)
    assert np.allclose(logs, expected.logsumexp(-1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.nan])
def test_what_is_no_number_stays_none_in_its_row(bad: float) -> None:
    scores, logs = np.ones((1, 3, 20), np.float32), np.empty((1, 3), np.float32)
    scores[0, 1, 5] = bad
    softmax(scores, logs, drop_of(0.1), (0, 3, 20), np.float32(1))
    assert np.isnan(scores[0, 1]).any()
    assert np.isnan(logs[0, 1])
    assert np.isfinite(scores[0, [0, 2]]).all()

    logits, losses = np.ones((2, 20), np.float32), np.empty(2, np.float32)
    logits[1, 5] = bad
    cross_entropy(logits, np.zeros(20, np.float32), np.array([3, 3]), losses)
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])

    x = np.full((1, 50), bad, np.float32)
    drop_out(x, x, drop_of(0.5), 0)
    assert not np.isfinite(x).any()


def plain_hash(seed: int, row: int, column: int) -> int:
    key = splitmix64(seed, row + 1)
    bits = (column + key) % 2**32
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D % 2**32
    bits ^= key >> 32
    bits = (bits ^ (bits >> 15)) * 0x846CA68B % 2**32
    return bits ^ (bits >> 16)


def test_a_dropout_is_the_hash_it_says() -> None:
    for seed in (0, 7, 2**63 - 1):
        drop = drop_of(0.3, seed)
        hashes = [[plain_hash(seed, 5 + row, at) for at in range(70)] for row in range(9)]
        assert (kept(drop, 9, 70, first=5) == (np.array(hashes) >= drop.limit)).all()


def within(count: int, trials: int, probability: float) -> bool:
    """Tell whether a count is within five deviations of a binomial's mean."""
    deviation = math.sqrt(trials * probability * (1 - probability))
    return abs(count - trials * probability) < 5 * deviation


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
def test_dropouts_have_their_rate_and_no_pattern(probability: float) -> None:
    drop, rows, columns = drop_of(probability), 2000, 512
    gone = ~kept(drop, rows, columns)
    assert within(int(gone.sum()), gone.size, probability)
    pairs = {
        "columns side by side": gone[:, 1:] & gone[:, :-1],
        "columns sixteen apart": gone[:, 16:] & gone[:, :-16],
        "rows side by side": gone[1:] & gone[:-1],
        "diagonals": gone[1:, 1:] & gone[:-1, :-1],
        "seeds side by side": gone & ~kept(drop_of(probability, 8), rows, columns),
    }
    for name, both in pairs.items():
        assert within(int(both.sum()), both.size, probability**2), name
    for counts, trials in ((gone.sum(0), rows), (gone.sum(1), columns)):
        variance = trials * probability * (1 - probability)
        squares = (counts - trials * probability) ** 2 / variance
        # A binomial's squared deviation has the mean 1 and at most this variance.
        bound = 6 * math.sqrt((2 + 1 / variance) * len(counts))
        assert abs(squares.sum() - len(counts)) < bound


def test_dropout_in_attention_is_that_of_its_rows() -> None:
    scores, logs = np.zeros((3, 4, 50), np.float32), np.empty((3, 4), np.float32)
    drop = drop_of(0.4)
    softmax(scores, logs, drop, (100, 1000, 50), np.float32(1))
    for head in range(3):
        expected = kept(drop, 4, 50, first=100 + 1000 * head)
        assert ((scores[head] > 0) == expected).all()
        assert np.allclose(scores[head][expected], drop.growth / 50)


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_the_gradient_of_softmax_is_that_of_torch(probability: float) -> None:
    random, drop, scale = np.random.default_rng(0), drop_of(probability), np.float32(0.3)
    scores, slopes = (random.normal(0, 3, (2, 5, 33)).astype(np.float32) for _ in range(2))
    logs, forward = np.empty((2, 5), np.float32), scores.copy()
    softmax(forward, logs, drop, (8, 5, 33), scale)

    x = torch.from_numpy(scores.copy()).double().requires_grad_()
    mask = kept(drop, 10, 33, first=8).reshape(2, 5, 33)
    out = (x * 0.3).softmax(-1) * torch.from_numpy(mask) * float(drop.growth)
    torch.autograd.backward(out, torch.from_numpy(slopes).double())
    sums = (logs, (forward * slopes).sum(-1))
    again, gradient = scores.copy(), slopes.copy()
    softmax_gradient(again, gradient, sums, drop, (8, 5, 33), scale)
    assert x.grad is not None
    assert np.allclose(again, forward, atol=1e-6)
    assert np.allclose(forward, out.detach(), atol=1e-6)
    assert np.allclose(gradient, x.grad, atol=1e-6)


@given(st.integers(1, 50), st.sampled_from([1.0, 1e4]), st.integers(0, 99))
def test_losses_and_gradients_are_those_of_torch(entries: int, spread: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, spread, (4, entries)).astype(np.float32)
    bias = random.normal(0, 1, entries).astype(np.float32)
    labels = random.integers(0, entries, 4)
    labels[2] = -100
    x = torch.from_numpy(logits + bias).double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(x, torch.from_numpy(labels), reduction="none")
    torch.autograd.backward(expected.sum())
    losses = np.empty(4, np.float32)
    cross_entropy(logits, bias, labels, losses)
    assert np.allclose(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    assert losses[2] == 0
    assert x.grad is not None
    assert np.allclose(logits, x.grad, atol=1e-6)
    assert not logits[2].any()


def halves_of(x: Tensor) -> NDArray[np.uint16]:
    """The bits of numbers as bfloat16."""
    found: NDArray[np.uint16] = x.bfloat16().view(torch.uint16).numpy()
    return found


def floats_of(bits: NDArray[np.uint16]) -> Tensor:
    """Numbers by their bits as bfloat16."""
    return torch.from_numpy(bits).view(torch.bfloat16).float()


def is_rounded(half: NDArray[np.uint16], whole: Floats) -> bool:
    """Tell whether numbers are those in bfloat16, but for the last bits of what was rounded."""
    return np.allclose(floats_of(half), whole, rtol=2.0**-8 * 1.001, atol=1e-6)


def test_bfloat16_is_read_and_rounded_as_torch_does() -> None:
    every = torch.arange(2**16).to(torch.uint16).view(torch.bfloat16).float()
    source = halves_of(every.view(64, 1024))
    target = np.empty_like(source)
    drop_out(source, target, NONE, 0)
    assert torch.equal(floats_of(target).flatten().nan_to_num(7.5), every.nan_to_num(7.5))
    drop_out(source, target, Drop(np.uint32(0), np.float32(1 / 0.9), np.uint64(0)), 0)
    expected = (every * float(np.float32(1 / 0.9))).bfloat16().float()
    # Torch rounds the product to 32 bits first, too.
    assert torch.equal(floats_of(target).flatten().nan_to_num(7.5), expected.nan_to_num(7.5))


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_bfloat16_is_worked_on_as_float32(probability: float) -> None:
    """And what lies beyond the queries and keys is left as it is."""
    drop, scale, rows = drop_of(probability), np.float32(0.3), (8, 5, 33)
    scores, slopes = (torch.randn(2, 7, 40, generator=SEEDED) for _ in range(2))
    halves = [halves_of(each) for each in (scores, slopes)]
    floats = [floats_of(each).numpy() for each in halves]
    logs, half_logs = (np.empty((2, 5), np.float32) for _ in range(2))
    forward, half_forward = floats[0].copy(), halves[0].copy()
    softmax(forward, logs, drop, rows, scale)
    softmax(half_forward, half_logs, drop, rows, scale)
    assert np.allclose(logs, half_logs, rtol=1e-6)
    assert is_rounded(half_forward[:, :5, :33], forward[:, :5, :33])
    assert (half_forward[:, 5:] == halves[0][:, 5:]).all()
    assert (half_forward[:, :, 33:] == halves[0][:, :, 33:]).all()

    softmax_gradient(*floats, (logs, logs), drop, rows, scale)
    softmax_gradient(*halves, (logs, logs), drop, rows, scale)
    for half, whole in zip(halves, floats, strict=True):
        assert is_rounded(half, whole)


def test_a_loss_of_bfloat16_is_that_of_float32() -> None:
    half = halves_of(torch.randn(3, 50, generator=SEEDED))
    whole = floats_of(half).numpy()
    bias, labels = np.linspace(-1, 1, 50).astype(np.float32), np.array([4, -100, 49])
    losses, half_losses = np.empty(3, np.float32), np.empty(3, np.float32)
    cross_entropy(whole, bias, labels, losses)
    cross_entropy(half, bias, labels, half_losses)
    assert np.allclose(losses, half_losses, rtol=1e-6)
    assert is_rounded(half, whole)
    assert not half[1].any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.nan])
def test_what_is_no_bfloat16_stays_none(bad: float) -> None:
    half = halves_of(torch.full((1, 50), bad))
    drop_out(half, half, drop_of(0.5), 0)
    assert not floats_of(half).isfinite().any()
    half = halves_of(torch.tensor([[[1.0, bad, 2.0]]]))
    softmax(half, np.empty((1, 1), np.float32), NONE, (0, 1, 3), np.float32(1))
    assert floats_of(half).isnan().any()
