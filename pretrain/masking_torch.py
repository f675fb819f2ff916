"""The draw of masks in torch operations, for tokens that lie on a GPU: bit for bit that of draw.py.

Training does not use it: it masks on the CPU, beside the step before (prefetch.py). This is for
loops of one's own that hold tokens on the device.

All rows are drawn at once and slots one after another, so one call costs about ten small kernels a
slot, however many rows there are: draw a whole step's rows together. torch has no unsigned 64-bit
arithmetic on every device: products wrap in signed integers just the same, and shifts to the right
clear what the sign fills in. Whole words and spans are drawn on the CPU only.

Shapes: B rows, S tokens a row, M slots a row.
"""

import torch
from torch import Tensor

from corpus.tokenizer import UNK_ID
from pretrain.draw import ACTION_COUNTER, DRAW_COUNTER
from pretrain.kernels import GOLDEN, MIX_1, MIX_2
from pretrain.masking import IGNORED, MaskRule

_LOW_32 = 2**32 - 1


def _signed(value: int) -> int:
    """Return the signed 64-bit integer with the bits of an unsigned one."""
    return value - 2**64 if value >= 2**63 else value


_GOLDEN, _MIX_1, _MIX_2 = (_signed(int(each)) for each in (GOLDEN, MIX_1, MIX_2))


def mask_tensors(
    tokens_BS: Tensor, lengths_B: Tensor, keys_B: Tensor, rule: MaskRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Give inputs, slots and labels of rows; keys are int64 with the bits of the unsigned ones."""
    if rule.needs_words:
        raise ValueError(
            f"masking {rule.masking} is drawn on the CPU only: use pretrain.masking, or take "
            "fixed or bernoulli"
        )
    positions_S = torch.arange(tokens_BS.shape[1], device=tokens_BS.device)
    ordinary_BS = (tokens_BS > UNK_ID) & (tokens_BS != rule.mask_id)
    ordinary_BS &= positions_S < lengths_B[:, None]
    choose = _choose_bernoulli if rule.masking == "bernoulli" else _choose_fixed
    chosen_BS = choose(ordinary_BS, keys_B, rule)
    # The chosen positions in order, then as many others as there are slots left.
    slots_BM = torch.argsort((~chosen_BS).to(torch.uint8), dim=1, stable=True)[:, : rule.slots]
    used_BM = torch.take_along_dim(chosen_BS, slots_BM, 1)
    slots_BM = torch.where(used_BM, slots_BM, 0)
    truth_BM = torch.take_along_dim(tokens_BS, slots_BM, 1)
    seen_BM = torch.where(used_BM, _replace(truth_BM, slots_BM, keys_B, rule), 0)
    # Unused slots add nothing at position 0, so that the order of writing does not matter.
    change_BM = torch.where(used_BM, seen_BM - truth_BM, 0)
    inputs_BS = tokens_BS.scatter_add(1, slots_BM, change_BM)
    return inputs_BS, slots_BM, torch.where(used_BM, truth_BM.long(), IGNORED)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _MIX_1
    value = (value ^ _shift(value, 27)) * _MIX_2
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift to the right, zeros coming in."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _choose_fixed(ordinary_BS: Tensor, keys_B: Tensor, rule: MaskRule) -> Tensor:
    """Draw ranks without replacement as Floyd does, then turn them into positions."""
    real_B = ordinary_BS.sum(1)
    labels_B = _shift(rule.mask_parts * real_B + (_mix(keys_B) & _LOW_32), 32)
    taken_BS = torch.zeros_like(ordinary_BS)
    for draw in range(rule.slots):
        top_B = real_B - labels_B + draw
        counter = _signed((DRAW_COUNTER + draw) * int(GOLDEN) % 2**64)
        hashes_B = _shift(_mix(keys_B + counter), 32)
        rank_B = _shift(hashes_B * (top_B + 1), 32)
        # Rows whose labels are drawn already change nothing: they set what is set.
        open_B = labels_B > draw
        rank_B1 = torch.where(open_B, rank_B, 0)[:, None]
        top_B1 = torch.where(open_B, top_B, 0)[:, None]
        again_B1 = torch.take_along_dim(taken_BS, rank_B1, 1)
        rank_B1 = torch.where(again_B1, top_B1, rank_B1)
        now_B1 = torch.take_along_dim(taken_BS, rank_B1, 1) | open_B[:, None]
        taken_BS.scatter_(1, rank_B1, now_B1)
    ranks_BS = (ordinary_BS.cumsum(1) - 1).clamp(min=0)
    return ordinary_BS & torch.take_along_dim(taken_BS, ranks_BS, 1)


def _choose_bernoulli(ordinary_BS: Tensor, keys_B: Tensor, rule: MaskRule) -> Tensor:
    """Draw every position by itself, two to a hash; beyond the slots none is chosen."""
    positions_S = torch.arange(ordinary_BS.shape[1], device=ordinary_BS.device)
    hashes_BS = _mix(keys_B[:, None] + (DRAW_COUNTER + positions_S // 2) * _GOLDEN)
    halves_BS = torch.where(positions_S % 2 == 1, hashes_BS & _LOW_32, _shift(hashes_BS, 32))
    chosen_BS = ordinary_BS & (halves_BS < rule.mask_parts)
    return chosen_BS & (chosen_BS.cumsum(1) <= rule.slots)


def _replace(truth_BM: Tensor, slots_BM: Tensor, keys_B: Tensor, rule: MaskRule) -> Tensor:
    """Decide what the model sees at each slot: the token itself, a random one, or <mask>."""
    hashes_BM = _mix(keys_B[:, None] + (slots_BM + ACTION_COUNTER) * _GOLDEN)
    fate_BM, first = _shift(hashes_BM, 32), UNK_ID + 1
    random_BM = _shift((hashes_BM & _LOW_32) * (rule.mask_id - first), 32) + first
    seen_BM = torch.where(fate_BM < rule.leave_parts + rule.random_parts, random_BM, rule.mask_id)
    return torch.where(fate_BM < rule.leave_parts, truth_BM, seen_BM).to(truth_BM.dtype)
