"""Which tokens of a row are predicted and what the model sees in their place, by integers alone.

A row with `real` maskable tokens (neither special nor padding) gets floor(mask_prob * real + u)
labels, u uniform in [0, 1), as fairseq's mask_tokens_dataset does: the share is exact on average
and the slots of a row are few and fixed, so shapes are static. Of the chosen tokens 80 % become
<mask>, 10 % a random token, 10 % stay (Devlin et al. 2019, section 3.1). How they are chosen:

- fixed: so many positions, without replacement;
- bernoulli: every position by itself, with probability mask_prob. The slots are as many as a row of
  ordinary tokens exceeds once in 10^12; beyond them positions stay unmasked;
- whole-word: words in random order, each that still fits into the labels of the row, as Google's
  BERT does (create_pretraining_data.py); words longer than what is left are passed over;
- span: spans of whole words, their lengths geometric with p = 0.2, at most 10 words, until the
  labels are used up; the fate of a token is that of its span (Joshi et al. 2020, SpanBERT,
  section 3.1). A row can fall a few labels short where no word fits.

All randomness is splitmix64 at a counter, keyed by (seed, pass, sequence number): no state, no
order, no rank. Probabilities are 32-bit integer thresholds. The draw is in draw.py; `mask_tensors`
in masking_torch.py is the same in torch, bit by bit.

Shapes: B rows, S tokens a row, M slots a row.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate

import numpy as np

from pretrain.config import DataPlan
from pretrain.dataset import Bools, Int32s, Int64s, UInt64s, derive_keys
from pretrain.draw import MASKINGS, draw_masks

IGNORED = -100  # the label of an unused slot; what torch's cross_entropy skips by default
TRAIN_DOMAIN = 2
VALIDATION_DOMAIN = 3
_STATIC_DOMAIN = 19  # 4 is dropout's, 16 to 18 are the order's (mixing.py)

ONE = 2**32  # the integer that stands for probability 1
# A run of the paper's length draws 2^32 rows: one in 250 such runs has a row that lacks a slot.
_OVERFLOW = 2**40
# Joshi et al. 2020, section 3.1.
_SPAN_STOP, _MAX_SPAN = Fraction(1, 5), 10


@dataclass(frozen=True)
class MaskRule:
    """Masking in integers: probabilities as parts of 2^32, ids from the vocabulary.

    `peak_parts` is the highest rate of a schedule, for which the slots must do.
    """

    mask_parts: int
    leave_parts: int
    random_parts: int
    vocab_size: int
    sequence_length: int
    masking: str = "fixed"
    peak_parts: int = 0

    @property
    def mask_id(self) -> int:
        """The id of <mask>: the last entry."""
        return self.vocab_size - 1

    @cached_property
    def slots(self) -> int:
        """Slots of a row: what no row can exceed, or hardly any (bernoulli)."""
        parts = max(self.mask_parts, self.peak_parts)
        if self.masking == "bernoulli":
            return bernoulli_slots(parts, self.sequence_length)
        return -(-parts * self.sequence_length // ONE)

    @property
    def needs_words(self) -> bool:
        """Whether the draw must know where words begin."""
        return self.masking in ("whole-word", "span")


@dataclass(frozen=True)
class Masked:
    """What the model takes: ids with masks, the positions to predict, and the true ids there.

    Slots are in the order of their positions; unused ones come last, at position 0 with the label
    `IGNORED`.
    """

    inputs_BS: Int32s
    slots_BM: Int64s
    labels_BM: Int64s


@lru_cache
def bernoulli_slots(parts: int, size: int) -> int:
    """Return the fewest slots that `size` draws exceed with probability below 2^-40."""
    if parts == 0:
        return 0
    common = math.gcd(parts, ONE)
    hit, miss = parts // common, (ONE - parts) // common
    term = tail = hit**size  # of P(k hits) and P(at least k hits), as parts of `whole`
    whole, hits = (hit + miss) ** size, size
    while tail * _OVERFLOW < whole:
        term = term * hits * miss // ((size - hits + 1) * hit)
        tail += term
        hits -= 1
    return hits


@lru_cache
def span_thresholds() -> tuple[int, ...]:
    """Return the parts of 2^32 below which a span has at most 1, 2, ... words, without the last."""
    shares = [_SPAN_STOP * (1 - _SPAN_STOP) ** each for each in range(_MAX_SPAN)]
    return tuple(int(each / sum(shares) * ONE) for each in accumulate(shares))[:-1]


def mask_rule(plan: DataPlan, vocab_size: int, sequence_length: int) -> MaskRule:
    """Turn a plan's probabilities into integers, with the rate that a schedule ends at."""
    peak = max(plan.mask_prob, plan.mask_ramp.from_prob if plan.mask_ramp else 0.0)
    return MaskRule(
        mask_parts=round(plan.mask_prob * ONE),
        leave_parts=round(plan.leave_unmasked_prob * ONE),
        random_parts=round(plan.random_token_prob * ONE),
        vocab_size=vocab_size,
        sequence_length=sequence_length,
        masking=plan.masking,
        peak_parts=round(peak * ONE),
    )


def rule_at(rule: MaskRule, plan: DataPlan, step: int) -> MaskRule:
    """Return the rule with the rate of a step.

    Half at step 0, 2 steps to a quarter -> 1/2, 3/8, 1/4, 1/4
    """
    if plan.mask_ramp is None:
        return rule
    first, steps = round(plan.mask_ramp.from_prob * ONE), plan.mask_ramp.steps
    passed = min(step, steps)
    return replace(rule, mask_parts=first + (rule.mask_parts - first) * passed // steps)


def train_keys(plan: DataPlan, numbers: Int64s, rows: Int64s, passes: Int64s) -> UInt64s:
    """Key each sequence of a training step by (seed, pass, sequence number).

    Static masks are keyed by (seed, pass modulo the copies, row): a row's come back.
    """
    if plan.mask_copies is not None:
        return derive_keys(plan.seed, _STATIC_DOMAIN, passes % plan.mask_copies, rows)
    return derive_keys(plan.seed, TRAIN_DOMAIN, passes, numbers)


def validation_keys(rows: Int64s) -> UInt64s:
    """Key validation rows: the same masks at every validation, in every run."""
    return derive_keys(0, VALIDATION_DOMAIN, np.zeros(1, np.int64), rows)


def mask_rows(
    tokens_BS: Int32s, lengths_B: Int32s, keys_B: UInt64s, rule: MaskRule,
    word_starts_BS: Bools | None = None,
) -> Masked:  # fmt: skip
    """Draw the masks of rows; `word_starts_BS` is for whole words and spans."""
    return mask_in_place(tokens_BS.copy(), lengths_B, keys_B, rule, word_starts_BS)


def mask_in_place(
    tokens_BS: Int32s, lengths_B: Int32s, keys_B: UInt64s, rule: MaskRule,
    word_starts_BS: Bools | None = None,
) -> Masked:  # fmt: skip
    """Draw the masks of rows that nobody else needs: they become the inputs."""
    if word_starts_BS is None:
        if rule.needs_words:
            raise ValueError(f"masking {rule.masking} needs to know where words begin")
        word_starts_BS = np.empty((0, 0), np.bool_)
    drawn = Masked(
        tokens_BS,
        np.empty((len(tokens_BS), rule.slots), np.int64),
        np.empty((len(tokens_BS), rule.slots), np.int64),
    )
    shares = (rule.mask_parts, rule.leave_parts, rule.leave_parts + rule.random_parts)
    draw_masks(
        MASKINGS.index(rule.masking),
        (lengths_B, keys_B, word_starts_BS),
        np.array([*shares, rule.mask_id], np.uint64),
        np.array(span_thresholds(), np.uint64),
        (drawn.inputs_BS, drawn.slots_BM, drawn.labels_BM),
        IGNORED,
    )
    return drawn
