"""Masks over 2.5 million positions; benchmarks/masking.py looks at 10 million in the same way."""

import numpy as np
import pytest

from benchmarks import mask_statistics
from benchmarks.mask_statistics import (
    Drawn,
    check_masks,
    check_word_masks,
    draw_rows,
    stretch_tokens,
)
from pretrain.masking import ONE, MaskRule


def make_rule(masking: str) -> MaskRule:
    tenth = round(0.1 * ONE)
    return MaskRule(round(0.15 * ONE), tenth, tenth, 1000, 512, masking)


@pytest.mark.parametrize("masking", ["fixed", "bernoulli", "whole-word"])
def test_masks_are_inside_the_bounds_of_chance(masking: str) -> None:
    checks = check_masks(make_rule(masking), rows=5120)
    assert len(checks) == 13
    assert [check for check in checks if not check.is_inside] == []


@pytest.mark.parametrize("masking", ["whole-word", "span"])
def test_masks_of_words_of_several_tokens_are_inside_the_bounds(masking: str) -> None:
    checks = check_word_masks(make_rule(masking), 2560, word_share=0.75)
    assert len(checks) == 11
    assert [check for check in checks if not check.is_inside] == []


def test_the_stretch_of_spans_by_hand() -> None:
    """Without a cut at 10 words, E[W] = 5 and E[W^2] = 45: 9 words; with it 3.8 and 20.8: 5.5."""
    assert stretch_tokens(make_rule("whole-word"), 1.0) == 1.0
    assert stretch_tokens(make_rule("whole-word"), 0.5) == 3.0  # mean 2, variance 2
    assert stretch_tokens(make_rule("span"), 1.0) == pytest.approx(5.5, abs=0.05)


def test_a_word_chosen_in_part_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(rule: MaskRule, numbers: np.ndarray, one: int = 0, word_share: float = 1.0) -> Drawn:
        drawn = draw_rows(rule, numbers, one, word_share)
        chosen = drawn.chosen.copy()
        chosen[::7, 100] ^= True
        return drawn._replace(chosen=chosen)

    monkeypatch.setattr(mask_statistics, "draw_rows", draw)
    found = {check.name: check for check in check_word_masks(make_rule("span"), 700, 0.75)}
    assert not found["words that are chosen in part"].is_inside


def test_shared_masks_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of which each second repeats the one before: what a generator shared by ranks does."""

    def draw(rule: MaskRule, numbers: np.ndarray, one: int = 0) -> Drawn:
        return draw_rows(rule, numbers // 2, one)

    monkeypatch.setattr(mask_statistics, "draw_rows", draw)
    outside = {check.name for check in check_masks(make_rule("fixed"), 2048) if not check.is_inside}
    assert "correlation, sequences side by side" in outside


def test_a_wrong_share_is_seen() -> None:
    rule = make_rule("fixed")
    drawn = draw_rows(rule, np.arange(1024))
    truth = drawn.truth.copy()
    truth[::100] = drawn.seen[::100]  # one label in a hundred left as it is
    found = {check.name: check for check in mask_statistics._check_shares(rule, drawn, 1.0)}
    wrong = drawn._replace(truth=truth)
    changed = {check.name: check for check in mask_statistics._check_shares(rule, wrong, 1.0)}
    assert found["share left as it is"].is_inside
    assert not changed["share left as it is"].is_inside
