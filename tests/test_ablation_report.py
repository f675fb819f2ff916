"""The tables and the page of an ablation, from its values alone."""

from typing import Any
from xml.etree import ElementTree

import pytest

from pretrain.evaluation.ablation_report import render, show_table
from pretrain.evaluation.intervals import Row, draw_intervals
from pretrain.evaluation.verdicts import Interval


def setting(name: str, losses: list[float]) -> dict[str, Any]:
    return {
        "table": "batches", "name": name, "packing": "full-sentences", "steps": 1200,
        "batch_sequences": 2048, "learning_rate": 7e-4, "mask_copies": None, "passes": 12.25,
        "losses": [{"full-sentences": each} for each in losses],
        "scores": [{"sst2": each / 10} for each in losses],
    }  # fmt: skip


VALUES = {
    "seeds": [0, 1, 2], "confidence": 0.95, "preset": "tiny", "own_packing": "full-sentences",
    "stores": {"full-sentences": {"root": "s", "snapshot": "<one>", "fingerprint": "f" * 64,
                                  "train_rows": 4321, "row_tokens": 100.0}},
    "settings": [setting("small", [4.0, 4.0, 4.0]), setting("medium", [3.0, 3.1, 3.2])],
    "comparisons": [
        {"table": "batches", "measure": "loss", "better": "medium", "worse": "small",
         "claim": "large batches are better", "numbers_in_paper": True,
         "measured_on": ["full-sentences"], "gains": [1.0, 0.9, 0.8],
         "gain": {"mean": 0.9, "low": 0.6516, "high": 1.1484}, "verdict": "agrees"},
    ],
}  # fmt: skip


def test_the_terminal_shows_numbers_and_verdicts() -> None:
    lines = show_table(VALUES).splitlines()
    assert lines[0] == "Table 3: batch size at equal passes"
    medium = next(line.split() for line in lines if line.strip().startswith("medium  "))
    # exp(3.1) = 22.20, and 3.1 -+ 4.303 * 0.1 / sqrt(3); the paper's perplexity comes last.
    expected = "medium 2,048 1,200 0.0007 12.2 22.20 3.1000 2.8516 to 3.3484 3.68"
    assert " ".join(medium) == expected
    assert "    medium over small   loss  +0.9000  0.6516 to 1.1484  agrees" in lines
    assert any("Score on sst2" in line for line in lines)


def test_the_page_is_well_formed_and_escapes() -> None:
    page = render(VALUES).decode()
    tree = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert len(tree.findall(".//table")) == 1 + 2 + 1
    assert "&lt;one&gt;" in page and "<one>" not in page
    assert "medium over small: agrees" in page
    assert "stand-in" not in page  # which is for packings


def test_intervals_lie_where_they_should() -> None:
    rows = [
        Row("a", Interval(1.0, 0.0, 2.0), "undecided"),
        Row("b", Interval(-1.0, -2.0, -0.5), "disagrees"),
    ]
    tree = ElementTree.fromstring(draw_intervals("gains", rows))
    zero, first, second = tree.findall(".//line")
    # The axis goes from -2 to 2 over 8 to 452, so zero is in the middle.
    assert float(zero.get("x1", "")) == pytest.approx(230)
    assert (float(first.get("x1", "")), float(first.get("x2", ""))) == pytest.approx((230, 452))
    assert (float(second.get("x1", "")), float(second.get("x2", ""))) == pytest.approx((8, 174.5))
    assert "nothing was measured" in draw_intervals("none", [])
