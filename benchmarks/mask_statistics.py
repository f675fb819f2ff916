"""Whether drawn masks are what chance would give: shares, places, and nothing shared between rows.

Rows are full, with special tokens at both ends, so that every place between them is as likely as
any other. Words are one token each, or for whole words and spans as long as asked for: each token
begins one with a given probability. Each figure stands beside the interval that a draw at random
leaves five standard deviations to either side, worked out from the rule alone: of a million such
figures one lies outside. The draw has no state, so the figures are always the same.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from corpus.training import Pretrain
from pretrain.config import plan_over
from pretrain.dataset import Bools, Int64s
from pretrain.masking import (
    IGNORED,
    ONE,
    MaskRule,
    mask_rows,
    span_thresholds,
    train_keys,
)

_DEVIATIONS = 5
_SEED, _BATCH, _RANKS = 11, 512, 4


class Check(NamedTuple):
    """A figure and the interval that it must lie in."""

    name: str
    found: float
    low: float
    high: float

    @property
    def is_inside(self) -> bool:
        """Whether it does."""
        return self.low <= self.found <= self.high


class Drawn(NamedTuple):
    """Masks of rows: where they lie, and the true and seen tokens at them.

    chosen: [rows, sequence_length]; truth and seen: of all labels, in order.
    """

    chosen: Bools
    truth: Int64s
    seen: Int64s


def check_masks(rule: MaskRule, rows: int) -> list[Check]:
    """Draw masks for the sequences 0 to `rows` of a run and compare them with chance."""
    first, second = (draw_rows(rule, np.arange(rows), one) for one in (0, 1))
    return [
        *_check_shares(rule, first, 1.0),
        *_check_places(rule, first),
        *_correlate(first, second),
        _neighbours(rule, first),
    ]


def check_word_masks(rule: MaskRule, rows: int, word_share: float) -> list[Check]:
    """Do so with words of several tokens, for what then still follows from the rule alone.

    Places near the ends of a row and side by side are not alike then.
    """
    first, second = (draw_rows(rule, np.arange(rows), one, word_share) for one in (0, 1))
    stretch = stretch_tokens(rule, word_share)
    words = _word_starts(first.chosen.shape, word_share)
    edges = first.chosen[:, 1:] != first.chosen[:, :-1]
    cut = float((edges & ~words[:, 1:]).sum())
    return [
        *_check_shares(rule, first, stretch if rule.masking == "span" else 1.0),
        Check("words that are chosen in part", cut, 0, 0),
        *_correlate(first, second, stretch),
    ]


def stretch_tokens(rule: MaskRule, word_share: float) -> float:
    """Tell in how long a stretch the mean label lies that is chosen as one: E[T^2] / E[T].

    Words have 1 / share tokens in the mean with variance (1 - share) / share^2; spans have W words,
    geometric and cut at 10 (`span_thresholds`), and their tokens the mean E[W] m and the second
    moment E[W] v + E[W^2] m^2. Whole words, one by one, are W = 1.
    """
    mean, variance = 1 / word_share, (1 - word_share) / word_share**2
    edges = [0, *span_thresholds(), ONE]
    counts = {at: (edges[at] - edges[at - 1]) / ONE for at in range(1, len(edges))}
    if rule.masking != "span":
        counts = {1: 1.0}
    first = sum(share * count for count, share in counts.items())
    second = sum(share * count**2 for count, share in counts.items())
    return (first * variance + second * mean**2) / (first * mean)


def draw_rows(rule: MaskRule, numbers: Int64s, one: int = 0, word_share: float = 1.0) -> Drawn:
    """Draw the masks of sequences in a pass, over random tokens."""
    plan = plan_over(Pretrain(seed=_SEED, batch_sequences=_BATCH), "")
    shape = (len(numbers), rule.sequence_length)
    tokens = np.random.default_rng(_SEED).integers(4, rule.mask_id, shape).astype(np.int32)
    tokens[:, 0], tokens[:, -1] = 0, 2
    lengths = np.full(len(numbers), rule.sequence_length, np.int32)
    keys = train_keys(plan, numbers, numbers, np.full(len(numbers), one))
    words = _word_starts(shape, word_share) if rule.needs_words else None
    masked = mask_rows(tokens, lengths, keys, rule, words)
    used = masked.labels_BM != IGNORED
    rows = np.broadcast_to(np.arange(len(numbers))[:, None], used.shape)
    chosen = np.zeros(shape, np.bool_)
    chosen[rows[used], masked.slots_BM[used]] = True
    seen = masked.inputs_BS[rows[used], masked.slots_BM[used]].astype(np.int64)
    return Drawn(chosen, masked.labels_BM[used], seen)


def _word_starts(shape: tuple[int, ...], word_share: float) -> Bools:
    """Say where words begin; special tokens, and what follows the first one, are words."""
    words = np.random.default_rng(_SEED + 1).random(shape) < word_share
    words[:, [0, 1, -1]] = True
    return words


def _share(name: str, found: float, share: float, of: float) -> Check:
    margin = _DEVIATIONS * math.sqrt(share * (1 - share) / of)
    return Check(name, found, share - margin, share + margin)


def _check_shares(rule: MaskRule, drawn: Drawn, stretch: float) -> Iterator[Check]:
    """Compare the rate and what the model sees at the labels; `stretch` of them have one fate."""
    rows, size = drawn.chosen.shape
    real, rate = size - 2, rule.mask_parts / ONE
    # A row has floor(rate * real + u) labels, or one draw a position.
    part = rate * real % 1
    variance = real * rate * (1 - rate) if rule.masking == "bernoulli" else part * (1 - part)
    margin = _DEVIATIONS * math.sqrt(variance / rows) / real + 1e-9
    yield Check("rate", float(drawn.chosen.sum()) / (rows * real), rate - margin, rate + margin)
    yield Check("labels at special tokens", float(drawn.chosen[:, [0, -1]].sum()), 0, 0)
    leave, change = rule.leave_parts / ONE, rule.random_parts / ONE
    # A random token is the true one by chance.
    chance = change / (rule.mask_id - 4)
    count, masks = len(drawn.seen) / stretch, drawn.seen == rule.mask_id
    same = drawn.seen == drawn.truth
    yield _share("share of <mask>", float(masks.mean()), 1 - leave - change, count)
    yield _share("share left as it is", float(same.mean()), leave + chance, count)
    yield _share("share of random tokens", float((~masks & ~same).mean()), change - chance, count)
    yield _uniform("random tokens, chi-square", drawn.seen[~masks & ~same] - 4, rule.mask_id - 4, 1)


def _check_places(rule: MaskRule, drawn: Drawn) -> Iterator[Check]:
    """Compare the places of the labels, and the places of each fate."""
    size = drawn.chosen.shape[1]
    places = np.nonzero(drawn.chosen)[1] - 1
    # Of a position that every row draws with probability p the count has the variance n p (1 - p).
    spread = 1 - rule.mask_parts / ONE
    yield _uniform("places, chi-square", places, size - 2, spread)
    random = (drawn.seen != rule.mask_id) & (drawn.seen != drawn.truth)
    yield _uniform("places of random tokens, chi-square", places[random], size - 2, 1)


def _uniform(name: str, values: Int64s, cells: int, spread: float) -> Check:
    """Compare counts with equal ones: chi-square has mean cells - 1 and twice that as variance."""
    counts = np.bincount(values, minlength=cells)
    expected = len(values) / cells
    found = float(((counts - expected) ** 2).sum() / (expected * spread))
    margin = _DEVIATIONS * math.sqrt(2 * (cells - 1))
    return Check(name, found, cells - 1 - margin, cells - 1 + margin)


def _correlate(first: Drawn, second: Drawn, stretch: float = 1.0) -> Iterator[Check]:
    """Correlate masks that have nothing to do with one another, drawn in stretches of tokens."""
    rows = first.chosen[:, 1:-1]
    again = second.chosen[:, 1:-1]
    yield _correlation("sequences side by side", rows[:-1], rows[1:], stretch)
    yield _correlation("the same place of two steps", rows[:-_BATCH], rows[_BATCH:], stretch)
    shares = rows[: len(rows) // _BATCH * _BATCH].reshape(
        -1, _RANKS, _BATCH // _RANKS, rows.shape[1]
    )
    yield _correlation("the same place of two ranks", shares[:, 0], shares[:, 1], stretch)
    yield _correlation("the same row in two passes", rows, again, stretch)


def _neighbours(rule: MaskRule, drawn: Drawn) -> Check:
    """Correlate positions side by side."""
    rows = drawn.chosen[:, 1:-1]
    check = _correlation("positions side by side", rows[:, :-1], rows[:, 1:])
    # Of a fixed number of labels, one at a place makes those at the others a little rarer.
    own = 0.0 if rule.masking == "bernoulli" else -1 / (rows.shape[1] - 1)
    return check._replace(low=check.low + own, high=check.high + own)


def _correlation(
    name: str,
    ones: npt.NDArray[np.bool_],
    others: npt.NDArray[np.bool_],
    stretch: float = 1.0,
) -> Check:
    rate = float(ones.mean())
    product = float((ones & others).mean()) - rate * float(others.mean())
    margin = _DEVIATIONS * math.sqrt(stretch / ones.size)
    return Check(f"correlation, {name}", product / (rate * (1 - rate)), -margin, margin)
