"""The draw of masks in torch operations, for tokens that lie on a GPU: bit for bit that of draw.py.

Training does not use it: it masks on the CPU, beside the step before (prefetch.py). This is for
loops of one's own that hold tokens on the device.

All rows are drawn at once. Shapes do not depend on what is drawn and no value is read back by the
host, so that calls queue up one behind another. A call launches 90 to 240 small kernels, and for
each slot 5 (fixed), 13 (whole words) or 31 (spans), however many rows there are: draw a whole
step's rows together. torch has no unsigned 64-bit arithmetic on every device: products wrap in
signed integers just the same, and shifts to the right clear what the sign fills in.

Many draws of words and spans are in vain, yet a step a slot is enough. A word that is too long for
the labels left stays so, and so does a span that begins in another: the next draw that takes a
label is always the first of all that could.

Shapes: B rows, S tokens a row, M slots a row, W words a row, one to a token at most, D draws of
spans, L words of the longest span.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from corpus.tokenizer import UNK_ID
from pretrain.draw import ACTION_COUNTER, DRAW_COUNTER, SPAN_TRIES
from pretrain.kernels import GOLDEN, MIX_1, MIX_2
from pretrain.masking import IGNORED, MaskRule, span_thresholds

_LOW_32 = 2**32 - 1
# More tokens than any row or word has; a sum of some still fits.
_TOO_LONG = 2**32


def _signed(value: int) -> int:
    """Return the signed 64-bit integer with the bits of an unsigned one."""
    return value - 2**64 if value >= 2**63 else value


_GOLDEN, _MIX_1, _MIX_2 = (_signed(int(each)) for each in (GOLDEN, MIX_1, MIX_2))


def mask_tensors(
    tokens_BS: Tensor, lengths_B: Tensor, keys_B: Tensor, rule: MaskRule,
    word_starts_BS: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Give inputs, slots and labels of rows; `word_starts_BS` is for whole words and spans.

    Keys are int64 with the bits of the unsigned ones; word starts are booleans.
    """
    positions_S = torch.arange(tokens_BS.shape[1], device=tokens_BS.device)
    ordinary_BS = (tokens_BS > UNK_ID) & (tokens_BS != rule.mask_id)
    ordinary_BS &= positions_S < lengths_B[:, None]
    # Where the fate of each position is drawn: spans share one.
    heads_BS = positions_S.expand_as(ordinary_BS)
    if rule.needs_words:
        if word_starts_BS is None:
            raise ValueError(f"masking {rule.masking} needs to know where words begin")
        words = _find_words(ordinary_BS, word_starts_BS)
        if rule.masking == "span":
            chosen_BS, heads_BS = _choose_spans(ordinary_BS, words, keys_B, rule)
        else:
            chosen_BS = _choose_words(ordinary_BS, words, keys_B, rule)
    elif rule.masking == "bernoulli":
        chosen_BS = _choose_bernoulli(ordinary_BS, keys_B, rule)
    else:
        chosen_BS = _choose_fixed(ordinary_BS, keys_B, rule)
    # The chosen positions in order, then as many others as there are slots left.
    slots_BM = torch.argsort((~chosen_BS).to(torch.uint8), dim=1, stable=True)[:, : rule.slots]
    used_BM = chosen_BS.gather(1, slots_BM)
    slots_BM = torch.where(used_BM, slots_BM, 0)
    truth_BM = tokens_BS.gather(1, slots_BM)
    heads_BM = heads_BS.gather(1, slots_BM)
    seen_BM = _replace(truth_BM, (slots_BM, heads_BM), keys_B, rule)
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


def _below(hashes: Tensor, size: Tensor) -> Tensor:
    """Scale the upper half of hashes to [0, size)."""
    return _shift(_shift(hashes, 32) * size, 32)


def _draw_at(keys_B: Tensor, counters: Tensor) -> Tensor:
    """Draw each row's hashes at counters, of one row or of all: shape (B, counters)."""
    return _mix(keys_B[:, None] + counters * _GOLDEN)


def _count_labels(ordinary_BS: Tensor, keys_B: Tensor, rule: MaskRule) -> Tensor:
    """Give how many labels each row gets."""
    return _shift(rule.mask_parts * ordinary_BS.sum(1) + (_mix(keys_B) & _LOW_32), 32)


def _choose_fixed(ordinary_BS: Tensor, keys_B: Tensor, rule: MaskRule) -> Tensor:
    """Draw ranks without replacement as Floyd does, then turn them into positions."""
    real_B = ordinary_BS.sum(1)
    labels_B = _count_labels(ordinary_BS, keys_B, rule)
    taken_BS = torch.zeros_like(ordinary_BS)
    draws_M = torch.arange(rule.slots, device=keys_B.device)
    # Rows whose labels are drawn already change nothing: they set what is set.
    open_BM = draws_M < labels_B[:, None]
    top_BM = torch.where(open_BM, (real_B - labels_B)[:, None] + draws_M, 0)
    rank_BM = _below(_draw_at(keys_B, DRAW_COUNTER + draws_M), top_BM + 1)
    for draw in range(rule.slots):
        rank_B1, open_B1 = rank_BM[:, draw, None], open_BM[:, draw, None]
        again_B1 = taken_BS.gather(1, rank_B1)
        rank_B1 = torch.where(again_B1, top_BM[:, draw, None], rank_B1)
        now_B1 = taken_BS.gather(1, rank_B1) | open_B1
        taken_BS.scatter_(1, rank_B1, now_B1)
    ranks_BS = (ordinary_BS.cumsum(1) - 1).clamp(min=0)
    return ordinary_BS & taken_BS.gather(1, ranks_BS)


def _choose_bernoulli(ordinary_BS: Tensor, keys_B: Tensor, rule: MaskRule) -> Tensor:
    """Draw every position by itself, two to a hash; beyond the slots none is chosen."""
    positions_S = torch.arange(ordinary_BS.shape[1], device=ordinary_BS.device)
    hashes_BS = _draw_at(keys_B, DRAW_COUNTER + positions_S // 2)
    halves_BS = torch.where(positions_S % 2 == 1, hashes_BS & _LOW_32, _shift(hashes_BS, 32))
    chosen_BS = ordinary_BS & (halves_BS < rule.mask_parts)
    return chosen_BS & (chosen_BS.cumsum(1) <= rule.slots)


@dataclass(frozen=True)
class _Words:
    """The words of rows in order; of entries past a row's last the size is more than any."""

    starts_BW: Tensor
    sizes_BW: Tensor
    found_B: Tensor
    numbers_BS: Tensor  # the word of each position; of others than ordinary ones, any


def _find_words(ordinary_BS: Tensor, word_starts_BS: Tensor) -> _Words:
    """Cut runs of ordinary tokens where words begin."""
    before_BS = F.pad(ordinary_BS, (1, 0))[:, :-1]
    first_BS = ordinary_BS & (word_starts_BS | ~before_BS)
    numbers_BS = (first_BS.cumsum(1) - 1).clamp(min=0)
    sizes_BW = torch.zeros_like(numbers_BS).scatter_add(1, numbers_BS, ordinary_BS.long())
    return _Words(
        torch.argsort((~first_BS).to(torch.uint8), dim=1, stable=True),
        torch.where(sizes_BW > 0, sizes_BW, _TOO_LONG),
        first_BS.sum(1),
        numbers_BS,
    )


def _shuffle(found_B: Tensor, keys_B: Tensor, width: int) -> Tensor:
    """Return the order in which draws from what is left take words, as draw.py exchanges them.

    Draw i takes what lies at place c(i) >= i and leaves there what lay at place i. That has come
    from the place of the last draw before i that hit place i, and so on back: links that a few
    doublings follow to their ends, for all places at once.

    of three words, draws hit places 2, 2, 2 -> words 2, 0, 1
    """
    places_W = torch.arange(width, device=keys_B.device)
    left_BW = (found_B[:, None] - places_W).clamp(min=1)
    hits_BW = places_W + _below(_draw_at(keys_B, DRAW_COUNTER + places_W), left_BW)
    # The last other draw that hit each place, or the place itself.
    elsewhere_BW = torch.where(hits_BW > places_W, places_W, -1)
    last_BW = torch.full_like(hits_BW, -1)
    last_BW = last_BW.scatter_reduce(1, hits_BW, elsewhere_BW, "amax")
    origins_BW = torch.where(last_BW < 0, places_W, last_BW)
    for _ in range(width.bit_length()):
        origins_BW = origins_BW.gather(1, origins_BW)
    # Draws with one place in common follow one another in a stable sort.
    sorted_BW, draws_BW = torch.sort(hits_BW, dim=1, stable=True)
    again_BW = sorted_BW == F.pad(sorted_BW, (1, 0), value=-1)[:, :-1]
    earlier_BW = origins_BW.gather(1, F.pad(draws_BW, (1, 0))[:, :-1])
    taken_BW = torch.where(again_BW, earlier_BW, sorted_BW)
    return torch.zeros_like(taken_BW).scatter(1, draws_BW, taken_BW)


def _choose_words(ordinary_BS: Tensor, words: _Words, keys_B: Tensor, rule: MaskRule) -> Tensor:
    """Take words in random order, each that fits into the labels left."""
    left_B1 = _count_labels(ordinary_BS, keys_B, rule)[:, None]
    width = ordinary_BS.shape[1]
    order_BW = _shuffle(words.found_B, keys_B, width)
    sizes_BW = words.sizes_BW.gather(1, order_BW)
    taken_BW = torch.zeros_like(ordinary_BS)
    for _ in range(rule.slots):
        next_B1, any_B1 = _find_first(sizes_BW <= left_B1)
        size_B1 = sizes_BW.gather(1, next_B1)
        left_B1 = left_B1 - size_B1 * any_B1
        taken_BW.scatter_(1, next_B1, taken_BW.gather(1, next_B1) | any_B1)
        sizes_BW.scatter_(1, next_B1, torch.where(any_B1, _TOO_LONG, size_B1))
    taken_BW = torch.zeros_like(taken_BW).scatter(1, order_BW, taken_BW)
    return ordinary_BS & taken_BW.gather(1, words.numbers_BS)


def _find_first(found: Tensor) -> tuple[Tensor, Tensor]:
    """Give the first place of each row that is true, 0 where none is, and whether one is."""
    # Of equals `argmax` takes the first.
    return found.byte().argmax(1, keepdim=True), found.any(1, keepdim=True)


def _choose_spans(
    ordinary_BS: Tensor, words: _Words, keys_B: Tensor, rule: MaskRule
) -> tuple[Tensor, Tensor]:
    """Draw spans of whole words until no label is left; give also where that of a token begins."""
    left_B1 = _count_labels(ordinary_BS, keys_B, rule)[:, None]
    draws_D = torch.arange(SPAN_TRIES * rule.slots, device=keys_B.device)
    hashes_BD = _draw_at(keys_B, DRAW_COUNTER + draws_D)
    words_BD = _below(hashes_BD, words.found_B[:, None])
    wanted_BD = torch.ones_like(words_BD)
    for threshold in span_thresholds():
        wanted_BD += (hashes_BD & _LOW_32) >= threshold
    in_time_BD = draws_D < SPAN_TRIES * left_B1
    # Past the last word, room for the longest span.
    offsets_L = torch.arange(len(span_thresholds()) + 1, device=keys_B.device)
    room = (0, len(offsets_L))
    sizes_BW = F.pad(words.sizes_BW, room, value=_TOO_LONG)
    starts_BW = F.pad(words.starts_BW, room)
    heads_BW = torch.full_like(sizes_BW, -1)
    for _ in range(rule.slots):
        fits_BW = sizes_BW <= left_B1
        draw_B1, any_B1 = _find_first(fits_BW.gather(1, words_BD) & in_time_BD)
        first_B1 = words_BD.gather(1, draw_B1)
        span_BL = first_B1 + offsets_L
        size_BL = sizes_BW.gather(1, span_BL)
        start_BL = starts_BW.gather(1, span_BL)
        # Taken words are too long, and a word lies where those before it end or is cut off.
        sum_BL = size_BL.cumsum(1)
        taken_BL = start_BL == start_BL[:, :1] + sum_BL - size_BL
        taken_BL &= sum_BL <= left_B1
        taken_BL &= offsets_L < wanted_BD.gather(1, draw_B1)
        taken_BL = taken_BL.cumprod(1).bool() & any_B1
        left_B1 = left_B1 - (size_BL * taken_BL).sum(1, keepdim=True)
        sizes_BW.scatter_(1, span_BL, torch.where(taken_BL, _TOO_LONG, size_BL))
        head_BL = heads_BW.gather(1, span_BL)
        heads_BW.scatter_(1, span_BL, torch.where(taken_BL, start_BL[:, :1], head_BL))
    heads_BS = heads_BW.gather(1, words.numbers_BS)
    return ordinary_BS & (heads_BS >= 0), heads_BS


def _replace(
    truth_BM: Tensor, places: tuple[Tensor, Tensor], keys_B: Tensor, rule: MaskRule
) -> Tensor:
    """Decide what the model sees at each slot: the token itself, a random one, or <mask>.

    `places` are the slots and where the fate of each is drawn.
    """
    slots_BM, heads_BM = places
    fate_BM, first = _shift(_draw_at(keys_B, ACTION_COUNTER + heads_BM), 32), UNK_ID + 1
    hashes_BM = _draw_at(keys_B, ACTION_COUNTER + slots_BM)
    random_BM = _shift((hashes_BM & _LOW_32) * (rule.mask_id - first), 32) + first
    seen_BM = torch.where(fate_BM < rule.leave_parts + rule.random_parts, random_BM, rule.mask_id)
    return torch.where(fate_BM < rule.leave_parts, truth_BM, seen_BM).to(truth_BM.dtype)
