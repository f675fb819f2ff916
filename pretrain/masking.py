"""Which tokens of a row are predicted and what the model sees in their place, by integers alone.

A row with `real` maskable tokens (neither special nor padding) gets floor(mask_prob * real + u)
labels, u uniform in [0, 1), as fairseq's mask_tokens_dataset does: the share is exact on average
and the slots of a row are few and fixed, so shapes are static. The positions are those with the
smallest hashes, which is a draw without replacement; of the chosen tokens 80 % become <mask>, 10 %
a random token, 10 % stay (Devlin et al. 2019, section 3.1).

All randomness is splitmix64 at a counter, keyed by (seed, pass, sequence number): no state, no
order, no rank. Probabilities are 32-bit integer thresholds, so that an implementation elsewhere
(a GPU kernel, say) can be bit-identical. Cost: about 30 ns a token (measured: 8,192 rows of 512,
one core of an AMD EPYC with AVX2, 2026-11).

Shapes: B rows, S tokens a row, M slots a row.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corpus.tokenizer import UNK_ID
from pretrain.config import DataPlan
from pretrain.dataset import Int32s, Int64s, UInt64s, derive_keys, mix64
from pretrain.kernels import GOLDEN

IGNORED = -100  # the label of an unused slot; what torch's cross_entropy skips by default
TRAIN_DOMAIN = 2
VALIDATION_DOMAIN = 3
_STATIC_DOMAIN = 19  # 4 is dropout's, 16 to 18 are the order's (mixing.py)

_ONE = 2**32  # the integer that stands for probability 1
_LOW_32 = np.uint64(_ONE - 1)
_LOW_16 = np.uint64(0xFFFF)
_NEVER = np.uint64(2**64 - 1)
# Counters of a row's hash: 0 rounds the number of labels, 1 + p orders position p, and
# 2^16 + 1 + p decides what becomes of position p. A row is shorter than 2^16 tokens.
_ORDER_COUNTER = 1
_ACTION_COUNTER = 2**16 + 1


@dataclass(frozen=True)
class MaskRule:
    """Masking in integers: probabilities as parts of 2^32, ids from the vocabulary."""

    mask_parts: int
    leave_parts: int
    random_parts: int
    vocab_size: int
    sequence_length: int

    @property
    def mask_id(self) -> int:
        """The id of <mask>: the last entry."""
        return self.vocab_size - 1

    @property
    def slots(self) -> int:
        """Slots of a row: ceil(mask_prob * sequence_length), which no row can exceed."""
        return -(-self.mask_parts * self.sequence_length // _ONE)


@dataclass(frozen=True)
class Masked:
    """What the model takes: ids with masks, the positions to predict, and the true ids there.

    Slots are in the order of their positions; unused ones come last, at position 0 with the label
    `IGNORED`.
    """

    inputs_BS: Int32s
    slots_BM: Int64s
    labels_BM: Int64s


def mask_rule(plan: DataPlan, vocab_size: int, sequence_length: int) -> MaskRule:
    """Turn a plan's probabilities into integers."""
    return MaskRule(
        mask_parts=round(plan.mask_prob * _ONE),
        leave_parts=round(plan.leave_unmasked_prob * _ONE),
        random_parts=round(plan.random_token_prob * _ONE),
        vocab_size=vocab_size,
        sequence_length=sequence_length,
    )


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


def mask_rows(tokens_BS: Int32s, lengths_B: Int32s, keys_B: UInt64s, rule: MaskRule) -> Masked:
    """Draw the masks of rows."""
    positions_S = np.arange(tokens_BS.shape[1], dtype=np.uint64)
    maskable_BS = (tokens_BS > UNK_ID) & (tokens_BS != rule.mask_id)
    maskable_BS &= positions_S < lengths_B[:, None].astype(np.uint64)
    labels_B = _label_counts(maskable_BS.sum(1, dtype=np.uint64), keys_B, rule)
    slots_BM = _smallest_positions(maskable_BS, keys_B, rule.slots)
    used_BM = np.arange(rule.slots, dtype=np.uint64) < labels_B[:, None]

    # From here on in the order of positions, unused slots last.
    slots_BM = np.where(used_BM, slots_BM, np.int64(len(positions_S)))
    slots_BM.sort(axis=1)
    slots_BM[~used_BM] = 0
    truth_BM = np.take_along_axis(tokens_BS, slots_BM, 1)
    seen_BM = _replacements(truth_BM, slots_BM, keys_B, rule)
    inputs_BS = tokens_BS.copy()
    rows_BM = np.broadcast_to(np.arange(len(tokens_BS))[:, None], slots_BM.shape)
    inputs_BS[rows_BM[used_BM], slots_BM[used_BM]] = seen_BM[used_BM]
    return Masked(inputs_BS, slots_BM, np.where(used_BM, truth_BM.astype(np.int64), IGNORED))


def _label_counts(real_B: UInt64s, keys_B: UInt64s, rule: MaskRule) -> UInt64s:
    fraction_B = mix64(keys_B) & _LOW_32
    return (np.uint64(rule.mask_parts) * real_B + fraction_B) >> np.uint64(32)


def _smallest_positions(maskable_BS: npt.NDArray[np.bool_], keys_B: UInt64s, slots: int) -> Int64s:
    """Order the maskable positions of each row by hash: the first `slots` of them, [B, slots].

    The low 16 bits of a hash are replaced by its position: no two are equal, and the sorted hashes
    hold the positions.
    """
    positions_S = np.arange(maskable_BS.shape[1], dtype=np.uint64)
    hashes_BS = mix64(keys_B[:, None] + (positions_S + np.uint64(_ORDER_COUNTER)) * GOLDEN)
    hashes_BS &= ~_LOW_16
    hashes_BS |= positions_S
    hashes_BS[~maskable_BS] = _NEVER
    hashes_BS.sort(axis=1)
    return (hashes_BS[:, :slots] & _LOW_16).astype(np.int64)


def _replacements(truth_BM: Int32s, slots_BM: Int64s, keys_B: UInt64s, rule: MaskRule) -> Int32s:
    """Decide what the model sees at each slot: the token itself, a random one, or <mask>."""
    counters_BM = slots_BM.astype(np.uint64) + np.uint64(_ACTION_COUNTER)
    hashes_BM = mix64(keys_B[:, None] + counters_BM * GOLDEN)
    choice_BM = hashes_BM >> np.uint64(32)
    first = UNK_ID + 1
    ordinary = np.uint64(rule.mask_id - first)
    random_BM = (((hashes_BM & _LOW_32) * ordinary) >> np.uint64(32)).astype(np.int32) + first
    leave = np.uint64(rule.leave_parts)
    seen_BM = np.where(choice_BM < leave, truth_BM, np.int32(rule.mask_id))
    is_random_BM = (choice_BM >= leave) & (choice_BM < leave + np.uint64(rule.random_parts))
    return np.where(is_random_BM, random_BM, seen_BM)
