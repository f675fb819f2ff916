import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_masking import make_keys, make_rule, messy_rows

from pretrain.masking import mask_rows
from pretrain.masking_torch import mask_tensors


def check_equal(masking: str, length: int, prob: float, seed: int, device: str) -> None:
    tokens, lengths, words = messy_rows(9, length, seed)
    keys, rule = make_keys(seed, np.arange(9), 9), make_rule(masking, length, prob)
    expected = mask_rows(tokens, lengths, keys, rule, words)
    rows, reals, hashed = (
        torch.from_numpy(each).to(device) for each in (tokens, lengths, keys.view(np.int64))
    )
    inputs, slots, labels = mask_tensors(rows, reals, hashed, rule)
    assert (inputs.dtype, slots.dtype, labels.dtype) == (torch.int32, torch.int64, torch.int64)
    assert np.array_equal(inputs.cpu().numpy(), expected.inputs_BS)
    assert np.array_equal(slots.cpu().numpy(), expected.slots_BM)
    assert np.array_equal(labels.cpu().numpy(), expected.labels_BM)


@settings(max_examples=15, deadline=None)
@given(
    masking=st.sampled_from(["fixed", "bernoulli"]), length=st.sampled_from([1, 2, 63, 64, 130]),
    prob=st.sampled_from([0.01, 0.15, 0.5]), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_torch_draws_the_same_masks(masking: str, length: int, prob: float, seed: int) -> None:
    check_equal(masking, length, prob, seed, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("masking", ["fixed", "bernoulli"])
def test_a_gpu_draws_the_same_masks(masking: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    check_equal(masking, 512, 0.15, 5, "cuda")


@pytest.mark.parametrize("masking", ["whole-word", "span"])
def test_words_and_spans_are_refused(masking: str) -> None:
    nothing = torch.zeros(1, 8, dtype=torch.int32)
    with pytest.raises(ValueError, match=f"{masking} is drawn on the CPU only: .* take fixed or"):
        mask_tensors(nothing, nothing[0, :1], nothing[0, :1].long(), make_rule(masking, 8))
