import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_masking import make_keys, make_rule, messy_rows
from torch import Tensor

from pretrain.dataset import Bools, Int32s
from pretrain.draw import MASKINGS
from pretrain.masking import MaskRule, mask_rows
from pretrain.masking_torch import mask_tensors

ROWS = 10


def check_equal(
    given_rows: tuple[Int32s, Int32s, Bools], seed: int, rule: MaskRule, device: str
) -> None:
    tokens, lengths, words = given_rows
    keys = make_keys(seed, np.arange(len(tokens)), len(tokens))
    expected = mask_rows(tokens, lengths, keys, rule, words)
    rows, reals, hashed, starts = (
        torch.from_numpy(each).to(device) for each in (tokens, lengths, keys.view(np.int64), words)
    )
    inputs, slots, labels = mask_tensors(rows, reals, hashed, rule, starts)
    assert (inputs.dtype, slots.dtype, labels.dtype) == (torch.int32, torch.int64, torch.int64)
    assert np.array_equal(inputs.cpu().numpy(), expected.inputs_BS)
    assert np.array_equal(slots.cpu().numpy(), expected.slots_BM)
    assert np.array_equal(labels.cpu().numpy(), expected.labels_BM)
    assert np.array_equal(rows.cpu().numpy(), tokens)


@settings(max_examples=60)
@given(
    masking=st.sampled_from(MASKINGS), length=st.sampled_from([1, 2, 3, 63, 64, 130]),
    prob=st.sampled_from([0.0, 0.01, 0.15, 0.5, 0.9, 1.0]), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_torch_draws_the_same_masks(masking: str, length: int, prob: float, seed: int) -> None:
    check_equal(messy_rows(ROWS, length, seed), seed, make_rule(masking, length, prob), "cpu")


def odd_rows() -> tuple[Int32s, Int32s, Bools]:
    """Rows of ordinary tokens: of one word, of none, of one token, cut in every way."""
    tokens = np.random.default_rng(0).integers(4, 999, (ROWS, 40)).astype(np.int32)
    lengths, words = np.full(ROWS, 40, np.int32), np.zeros((ROWS, 40), np.bool_)
    lengths[1], lengths[2], tokens[3] = 0, 1, 2  # row 0 is one word, row 3 has none
    words[4], words[5, ::2], words[6, 1::3] = True, True, True  # row 6 begins within a word
    words[7, [5, 39]], tokens[7, 5:39] = True, 3  # words of 5 tokens and of 1, far apart
    words[8, 20:] = True  # a long word before short ones
    words[9, ::2] = words[9, 39] = True  # one label fits two words only, which few draws hit
    return tokens, lengths, words


@pytest.mark.parametrize("prob", [0.0, 0.02, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("masking", MASKINGS)
def test_torch_draws_the_same_masks_for_odd_rows(masking: str, prob: float) -> None:
    for seed in range(4):
        check_equal(odd_rows(), seed, make_rule(masking, 40, prob), "cpu")


@pytest.mark.parametrize("masking", MASKINGS)
def test_slots_of_a_ramps_peak_stay_empty(masking: str) -> None:
    for seed in range(4):
        check_equal(odd_rows(), seed, make_rule(masking, 40, 0.02, peak_parts=2**31), "cpu")


@pytest.mark.parametrize("masking", MASKINGS)
def test_shapes_need_no_values(masking: str) -> None:
    """On `meta` there are none: whatever asks for one fails, as it would wait on a GPU."""

    def nothing(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    rule = make_rule(masking, 64)
    given_rows = nothing(ROWS, 64, dtype=torch.int32), nothing(ROWS), nothing(ROWS)
    drawn = mask_tensors(*given_rows, rule, nothing(ROWS, 64, dtype=torch.bool))
    assert [each.shape for each in drawn] == [(ROWS, 64), (ROWS, rule.slots), (ROWS, rule.slots)]


@pytest.mark.gpu
@pytest.mark.parametrize("masking", MASKINGS)
def test_a_gpu_draws_the_same_masks(masking: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    check_equal(messy_rows(ROWS, 512, 5), 5, make_rule(masking, 512), "cuda")
    check_equal(odd_rows(), 5, make_rule(masking, 40, 0.5), "cuda")


@pytest.mark.parametrize("masking", ["whole-word", "span"])
def test_whole_words_need_word_starts(masking: str) -> None:
    nothing = torch.zeros(1, 8, dtype=torch.int32)
    with pytest.raises(ValueError, match=f"masking {masking} needs to know where words begin"):
        mask_tensors(nothing, nothing[0, :1], nothing[0, :1].long(), make_rule(masking, 8))
