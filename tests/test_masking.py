import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_reference import Row, mask_row
from numba.core.errors import TypingError
from pretrain_helpers import make_plan

from corpus.tokenizer import BOS_ID, EOS_ID, PAD_ID, UNK_ID
from pretrain.dataset import Bools, Int32s, Int64s, UInt64s
from pretrain.draw import MASKINGS
from pretrain.masking import (
    IGNORED,
    ONE,
    MaskRule,
    bernoulli_slots,
    mask_in_place,
    mask_rows,
    mask_rule,
    rule_at,
    span_thresholds,
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
    plan = make_plan(seed=seed)
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
    assert masked.slots_BM.tolist() == [[4, 5, 11, 12, 13]]
    assert masked.labels_BM.tolist() == [[8, 9, 15, 16, 17]]
    assert masked.inputs_BS.tolist() == [
        [4, 5, 6, 7, 999, 952, 10, 11, 12, 13, 14, 999, 999, 17, 18, 19]
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


def make_rule(masking: str, length: int = 128, prob: float = 0.15, **changes: int) -> MaskRule:
    tenth = round(0.1 * ONE)
    return MaskRule(round(prob * ONE), tenth, tenth, VOCAB, length, masking, **changes)


def messy_rows(rows: int, length: int, seed: int) -> tuple[Int32s, Int32s, Bools]:
    """Rows with special tokens anywhere, of any length, with words of any length."""
    draw = np.random.default_rng(seed)
    tokens = draw.integers(4, VOCAB - 1, (rows, length)).astype(np.int32)
    rare = draw.random((rows, length)) < 0.1
    tokens[rare] = draw.choice([BOS_ID, PAD_ID, EOS_ID, UNK_ID, VOCAB - 1], rare.sum())
    lengths = draw.integers(1, length + 1, rows).astype(np.int32)
    lengths[::4] = length
    return tokens, lengths, draw.random((rows, length)) < draw.random((rows, 1))


@settings(max_examples=30)
@given(
    masking=st.sampled_from(MASKINGS), length=st.sampled_from([1, 2, 63, 64, 65, 130, 200]),
    prob=st.sampled_from([0.01, 0.15, 0.3, 0.5]), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_the_draw_equals_the_reference(masking: str, length: int, prob: float, seed: int) -> None:
    tokens, lengths, words = messy_rows(12, length, seed)
    rule = make_rule(masking, length, prob)
    keys = make_keys(seed, np.arange(12), 12)
    masked = mask_rows(tokens, lengths, keys, rule, words)
    for at, real in enumerate(lengths.tolist()):
        row = Row(tokens[at, :real].tolist(), words[at].tolist(), int(keys[at]), rule)
        inputs, slots, labels = mask_row(row, tokens[at, real:].tolist())
        assert masked.inputs_BS[at].tolist() == inputs
        assert masked.slots_BM[at].tolist() == slots
        assert masked.labels_BM[at].tolist() == labels


def test_rows_with_gaps_between_tokens_are_refused() -> None:
    """The draw reads 64 tokens at once and cannot see how far apart they lie."""
    tokens, lengths, words = messy_rows(4, 256, seed=9)
    keys = make_keys(0, np.arange(4), 4)
    with pytest.raises(TypingError, match="an array without gaps is wanted"):
        mask_in_place(tokens[:, ::2], lengths // 2, keys, make_rule("fixed", 128), words[:, ::2])


@pytest.mark.parametrize("masking", MASKINGS)
def test_every_masking_leaves_the_rows_it_is_given(masking: str) -> None:
    tokens, lengths, words = messy_rows(20, 100, seed=3)
    before = tokens.copy()
    keys = make_keys(0, np.arange(20), 20)
    whole = mask_rows(tokens, lengths, keys, make_rule(masking, 100), words)
    assert np.array_equal(tokens, before)
    alone = mask_rows(tokens[7:9], lengths[7:9], keys[7:9], make_rule(masking, 100), words[7:9])
    assert np.array_equal(alone.inputs_BS, whole.inputs_BS[7:9])
    assert np.array_equal(alone.slots_BM, whole.slots_BM[7:9])


def word_numbers(words: Bools) -> Int64s:
    return np.cumsum(words, axis=1)


@pytest.mark.parametrize("masking", ["whole-word", "span"])
def test_words_are_masked_whole(masking: str) -> None:
    tokens, lengths = make_rows(500)
    words = np.random.default_rng(1).random((500, 128)) < 0.7
    words[:, :2] = words[:, -1] = True
    masked = mask_rows(
        tokens, lengths, make_keys(0, np.arange(500), 500), make_rule(masking), words
    )
    numbers, used = word_numbers(words), masked.labels_BM != IGNORED
    for row in range(500):
        at = masked.slots_BM[row][used[row]]
        touched = np.isin(numbers[row], numbers[row][at])
        assert np.array_equal(np.flatnonzero(touched), at)
    # The budget is used up but where the rest is shorter than any word left.
    assert used.sum() / (126 * 500) == pytest.approx(
        0.15, abs=5 * math.sqrt(0.09 / 500) / 126 + 1e-4
    )


def test_words_are_masked_evenly() -> None:
    tokens, lengths = make_rows(6000)
    words = np.zeros((6000, 128), np.bool_)
    words[:, 1::3] = True  # 42 words of three tokens
    rule = make_rule("whole-word")
    masked = mask_rows(tokens, lengths, make_keys(0, np.arange(6000), 6000), rule, words)
    used = masked.labels_BM != IGNORED
    assert (used.sum(1) == 18).all()  # six words: 18 or 19 labels
    counts = np.bincount((masked.slots_BM[used] - 1) // 3, minlength=42) / 3
    expected = 6000 / 7
    chi_square = ((counts - expected) ** 2 / (expected * 6 / 7)).sum()
    assert chi_square < 41 + 5 * math.sqrt(2 * 41)


def test_spans_have_the_lengths_and_fates_of_the_paper() -> None:
    tokens, lengths = make_rows(6000, 512)
    words = np.ones((6000, 512), np.bool_)
    rule = make_rule("span", 512, 0.02)  # so few that spans hardly meet
    masked = mask_rows(tokens, lengths, make_keys(5, np.arange(6000), 6000), rule, words)
    chosen = np.zeros((6000, 514), np.int8)
    used = masked.labels_BM != IGNORED
    rows = np.broadcast_to(np.arange(6000)[:, None], used.shape)
    chosen[rows[used], masked.slots_BM[used] + 1] = 1
    edges = np.diff(chosen, axis=1)
    runs = np.argwhere(edges == -1)[:, 1] - np.argwhere(edges == 1)[:, 1]
    # Of ten labels the first span is cut only where it is the paper's longest, 10 or 11 labels.
    first = np.unique(np.argwhere(edges == 1)[:, 0], return_index=True)[1]
    assert runs.max() <= 22
    assert 2.5 < runs[first].mean() < 3.8  # 3.8 words where nothing is cut
    seen = masked.inputs_BS
    for row, start in np.argwhere(edges == 1)[:2000]:
        length = int(np.argmin(chosen[row, start + 1 :]))
        masks = seen[row, start : start + length] == VOCAB - 1
        assert masks.all() or not masks.any() or length > 1
    share = (seen[rows[used], masked.slots_BM[used]] == VOCAB - 1).mean()
    assert abs(share - 0.8) < 0.02


def test_span_lengths_are_geometric() -> None:
    # P(length = k) = 0.2 * 0.8^(k - 1) / (1 - 0.8^10), by hand.
    thresholds = np.array([0, *span_thresholds(), ONE]) / ONE
    expected = 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)
    assert np.allclose(np.diff(thresholds), expected, atol=1e-9)
    assert (np.diff(thresholds) * np.arange(1, 11)).sum() == pytest.approx(3.797, abs=1e-3)


def test_whole_words_need_word_starts() -> None:
    tokens, lengths = make_rows(1)
    with pytest.raises(ValueError, match="masking span needs to know where words begin"):
        mask_rows(tokens, lengths, make_keys(0, np.arange(1), 1), make_rule("span"))


def test_bernoulli_draws_every_position_by_itself() -> None:
    tokens, lengths = make_rows(4000)
    rule = make_rule("bernoulli")
    masked = mask_rows(tokens, lengths, make_keys(2, np.arange(4000), 4000), rule)
    counts = (masked.labels_BM != IGNORED).sum(1)
    mean, variance = 126 * 0.15, 126 * 0.15 * 0.85
    assert abs(counts.mean() - mean) < 5 * math.sqrt(variance / 4000)
    # The variance of a sample variance of near-normal values is 2 v^2 / n.
    assert abs(counts.var() - variance) < 5 * variance * math.sqrt(2 / 4000)


def test_bernoulli_slots_are_the_fewest_that_do() -> None:
    # 3 fair coins: more than 2 heads once in 8, never more than 3; 2^-40 asks for all three.
    assert bernoulli_slots(2**31, 3) == 3
    # 100 coins of 2^-16: P(more than 3) is about C(100, 4) 2^-64 = 2.1e-13 < 2^-40 = 9.1e-13 and
    # P(more than 2) about C(100, 3) 2^-48 = 5.7e-10.
    assert bernoulli_slots(2**16, 100) == 3
    assert make_rule("bernoulli", 512).slots == 139
    assert make_rule("bernoulli", 512, peak_parts=2**31).slots > 139


def test_bernoulli_beyond_the_slots_stays_unmasked() -> None:
    tokens, lengths = make_rows(50)
    rule = make_rule("bernoulli", prob=0.5)
    short = replace(rule, masking="bernoulli")
    short.__dict__["slots"] = 60  # of 63 on average
    keys = make_keys(0, np.arange(50), 50)
    all_, some = mask_rows(tokens, lengths, keys, rule), mask_rows(tokens, lengths, keys, short)
    assert np.array_equal(some.slots_BM[:, :40], all_.slots_BM[:, :40])
    over = (all_.labels_BM != IGNORED).sum(1) > 60
    assert over.any()
    for row in np.flatnonzero(over):
        last = some.slots_BM[row, -1]
        assert np.array_equal(some.inputs_BS[row, last + 1 :], tokens[row, last + 1 :])


def test_the_rate_follows_its_schedule() -> None:
    plan = make_plan(mask_prob=0.25, mask_ramp={"from_prob": 0.5, "steps": 2})
    rule = mask_rule(plan, VOCAB, 128)
    rates = [rule_at(rule, plan, step).mask_parts / ONE for step in range(4)]
    assert rates == [0.5, 0.375, 0.25, 0.25]
    # The shape does not change with the rate, and does for the highest.
    assert {rule_at(rule, plan, step).slots for step in range(4)} == {64}
    assert mask_rule(make_plan(mask_prob=0.25), VOCAB, 128).slots == 32


def test_static_masks_come_back_after_their_copies() -> None:
    tokens, lengths = make_rows(30)
    plan = make_plan(mask_prob=0.25, mask_copies=3)
    rule = mask_rule(plan, VOCAB, 128)
    drawn = []
    for one in range(7):
        rows = np.roll(np.arange(30), one)  # another order each pass
        keys = train_keys(plan, one * 30 + np.arange(30), rows, np.full(30, one))
        masked = mask_rows(tokens[rows], lengths, keys, rule)
        drawn.append(masked.inputs_BS[np.argsort(rows)])
    for one in range(7):
        same = [other for other in range(7) if np.array_equal(drawn[one], drawn[other])]
        assert same == [other for other in range(7) if other % 3 == one % 3]
