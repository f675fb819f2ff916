import math

import numpy as np
import pytest

from corpus.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from pretrain.config import DataPlan
from pretrain.dataset import Int32s, Int64s, UInt64s
from pretrain.masking import (
    IGNORED,
    MaskRule,
    mask_rows,
    train_keys,
    validation_keys,
)

VOCAB = 1000
RULE = MaskRule(
    mask_parts=round(0.15 * 2**32),
    leave_parts=round(0.1 * 2**32),
    random_parts=round(0.1 * 2**32),
    vocab_size=VOCAB,
    sequence_length=128,
)


def make_rows(rows: int, length: int = 128, seed: int = 0) -> tuple[Int32s, Int32s]:
    tokens = np.random.default_rng(seed).integers(4, VOCAB - 1, (rows, length)).astype(np.int32)
    tokens[:, 0], tokens[:, -1] = BOS_ID, EOS_ID
    return tokens, np.full(rows, length, np.int32)


def make_keys(seed: int, numbers: Int64s, rows: int) -> UInt64s:
    plan = DataPlan(
        version=0, snapshot="", seed=seed, batch_sequences=1, mask_prob=0.15,
        leave_unmasked_prob=0.1, random_token_prob=0.1,
    )  # fmt: skip
    return train_keys(plan, numbers, numbers % rows, numbers // rows)


def test_slots_are_enough_for_any_row() -> None:
    assert RULE.slots == math.ceil(0.15 * 128)
    halves = MaskRule(2**31, 0, 0, VOCAB, 128)
    assert halves.slots == 64


def test_masks_are_stable() -> None:
    tokens = np.arange(4, 20, dtype=np.int32)[None]
    rule = MaskRule(round(0.3 * 2**32), RULE.leave_parts, RULE.random_parts, VOCAB, 16)
    keys = make_keys(1, np.array([5]), 100)
    masked = mask_rows(tokens, np.array([16], np.int32), keys, rule)
    assert masked.slots_BM.tolist() == [[7, 8, 9, 12, 13]]
    assert masked.labels_BM.tolist() == [[11, 12, 13, 16, 17]]
    assert masked.inputs_BS.tolist() == [
        [4, 5, 6, 7, 8, 9, 10, 999, 685, 999, 14, 15, 999, 17, 18, 19]
    ]


def test_labels_are_the_true_tokens_and_the_rest_is_untouched() -> None:
    tokens, lengths = make_rows(50)
    masked = mask_rows(tokens, lengths, make_keys(0, np.arange(50), 50), RULE)
    used = masked.labels_BM != IGNORED
    truth = np.take_along_axis(tokens, masked.slots_BM, 1)
    assert np.array_equal(masked.labels_BM[used], truth[used])
    changed = masked.inputs_BS != tokens
    at_slots = np.zeros_like(changed)
    rows = np.broadcast_to(np.arange(50)[:, None], used.shape)
    at_slots[rows[used], masked.slots_BM[used]] = True
    assert not (changed & ~at_slots).any()
    assert at_slots.sum() == used.sum()  # no slot twice
    assert (np.diff(masked.slots_BM, axis=1)[used[:, 1:]] > 0).all()


def test_special_tokens_and_padding_are_never_chosen() -> None:
    tokens, lengths = make_rows(400)
    specials = np.array([BOS_ID, PAD_ID, EOS_ID, UNK_ID, VOCAB - 1], np.int32)
    tokens[:, ::3] = specials[np.arange(400) % 5][:, None]
    lengths[:] = 90
    masked = mask_rows(tokens, lengths, make_keys(0, np.arange(400), 400), RULE)
    used = masked.labels_BM != IGNORED
    assert used.any()
    assert not np.isin(masked.labels_BM[used], specials).any()
    assert masked.slots_BM[used].max() < 90


def test_the_shares_are_inside_their_bounds() -> None:
    tokens, lengths = make_rows(4000)
    masked = mask_rows(tokens, lengths, make_keys(3, np.arange(4000), 4000), RULE)
    used = masked.labels_BM != IGNORED
    real = 126 * 4000
    # A row has floor(18.9 + u) labels: 18 or 19, the latter with probability 0.9.
    counts = used.sum(1)
    assert set(counts.tolist()) == {18, 19}
    assert abs((counts == 19).mean() - 0.9) < 5 * math.sqrt(0.9 * 0.1 / 4000)
    assert used.sum() / real == pytest.approx(0.15, abs=5 * math.sqrt(0.09 / 4000) / 126)
    seen = np.take_along_axis(masked.inputs_BS, masked.slots_BM, 1)[used]
    truth, labels = masked.labels_BM[used], used.sum()
    # A random token is the true one by chance once in 995 ordinary tokens.
    expected = {"mask": 0.8, "left": 0.1 + 0.1 / 995, "random": 0.1 - 0.1 / 995}
    found = {
        "mask": (seen == VOCAB - 1).mean(),
        "left": (seen == truth).mean(),
        "random": ((seen != VOCAB - 1) & (seen != truth)).mean(),
    }
    for name, share in expected.items():
        assert abs(found[name] - share) < 5 * math.sqrt(share * (1 - share) / labels), name


def test_positions_and_random_tokens_are_uniform() -> None:
    tokens, lengths = make_rows(4000)
    masked = mask_rows(tokens, lengths, make_keys(4, np.arange(4000), 4000), RULE)
    used = masked.labels_BM != IGNORED
    seen = np.take_along_axis(masked.inputs_BS, masked.slots_BM, 1)
    drawn = seen[used & (seen != VOCAB - 1) & (seen != masked.labels_BM)]
    for values, cells in ((masked.slots_BM[used] - 1, 126), (drawn - 4, 995)):
        counts = np.bincount(values, minlength=cells)
        assert len(counts) == cells
        expected = len(values) / cells
        chi_square = ((counts - expected) ** 2 / expected).sum()
        # Its mean is cells - 1 and its variance at most 2 (cells - 1).
        assert chi_square < cells - 1 + 5 * math.sqrt(2 * (cells - 1))


def test_masks_do_not_depend_on_the_rows_beside() -> None:
    tokens, lengths = make_rows(12)
    keys = make_keys(0, np.arange(12), 12)
    whole = mask_rows(tokens, lengths, keys, RULE)
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        alone = mask_rows(tokens[part], lengths[part], keys[part], RULE)
        assert np.array_equal(alone.inputs_BS, whole.inputs_BS[part])
        assert np.array_equal(alone.slots_BM, whole.slots_BM[part])
        assert np.array_equal(alone.labels_BM, whole.labels_BM[part])


def test_masks_differ_by_row_pass_seed_and_split() -> None:
    tokens, lengths = make_rows(1)
    drawn = {
        mask_rows(tokens, lengths, keys, RULE).slots_BM.tobytes()
        for keys in (
            make_keys(0, np.array([3]), 10),
            make_keys(0, np.array([4]), 10),
            make_keys(0, np.array([13]), 10),
            make_keys(1, np.array([3]), 10),
            validation_keys(np.array([3])),
        )
    }
    assert len(drawn) == 5


def test_neighbouring_sequences_agree_no_more_than_chance() -> None:
    tokens, lengths = make_rows(2000)
    masked = mask_rows(tokens, lengths, make_keys(0, np.arange(2000), 2000), RULE)
    chosen = np.zeros((2000, 128))
    used = masked.labels_BM != IGNORED
    rows = np.broadcast_to(np.arange(2000)[:, None], used.shape)
    chosen[rows[used], masked.slots_BM[used]] = 1
    inner = chosen[:, 1:-1] - 0.15
    correlation = (inner[1:] * inner[:-1]).mean() / (0.15 * 0.85)
    assert abs(correlation) < 5 / math.sqrt(inner[1:].size)


@pytest.mark.parametrize("real", [0, 1, 2, 3])
def test_rows_with_hardly_any_tokens(real: int) -> None:
    tokens = np.full((64, 16), PAD_ID, np.int32)
    tokens[:, 0], tokens[:, 1 : real + 1], tokens[:, real + 1] = BOS_ID, 77, EOS_ID
    rule = MaskRule(2**31, 0, 0, VOCAB, 16)
    lengths = np.full(64, real + 2, np.int32)
    masked = mask_rows(tokens, lengths, make_keys(0, np.arange(64), 64), rule)
    counts = (masked.labels_BM != IGNORED).sum(1)
    assert set(counts.tolist()) <= {math.floor(real / 2), math.ceil(real / 2)}
    assert (masked.slots_BM[masked.labels_BM == IGNORED] == 0).all()
