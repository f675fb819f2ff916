"""Masks over 2.5 million positions; benchmarks/masking.py looks at 10 million in the same way."""

import numpy as np
import pytest

from benchmarks import mask_statistics
from benchmarks.mask_statistics import Drawn, check_masks, draw_rows
from pretrain.masking import ONE, MaskRule


def make_rule(masking: str) -> MaskRule:
    tenth = round(0.1 * ONE)
    return MaskRule(round(0.15 * ONE), tenth, tenth, 1000, 512, masking)


@pytest.mark.parametrize("masking", ["fixed", "whole-word"])
def test_masks_are_inside_the_bounds_of_chance(masking: str) -> None:
    checks = check_masks(make_rule(masking), rows=5120)
    assert len(checks) == 13
    assert [check for check in checks if not check.is_inside] == []


def test_bernoulli_masks_are_inside_the_bounds_of_chance() -> None:
    checks = check_masks(make_rule("bernoulli"), rows=5120)
    # Positions side by side have nothing to do with each other: their own bound, around 0.
    *others, neighbours = checks
    assert [check for check in others if not check.is_inside] == []
    assert abs(neighbours.found) < neighbours.high - neighbours.low


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
    found = {check.name: check for check in mask_statistics._check_shares(rule, drawn)}
    wrong = drawn._replace(truth=truth)
    changed = {check.name: check for check in mask_statistics._check_shares(rule, wrong)}
    assert found["share left as it is"].is_inside
    assert not changed["share left as it is"].is_inside
