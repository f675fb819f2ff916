"""Texts to measure on: bounded, counted, and refused where they are markup."""

from pathlib import Path

import pytest

from pretrain.evaluation.texts import read_texts


def test_files_are_read_in_order_up_to_the_bound(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / "two.jsonl"
    one.write_text("first é")
    two.write_text('{"text": "second"}\n{"text": ""}\n{"text": "third"}\n')
    found = read_texts([str(one), str(two)])
    assert (found.texts, found.dropped) == (("first é", "second", "third"), {"empty": 1})
    assert not found.is_cut
    cut = read_texts([str(one), str(two)], max_bytes=10)
    assert (cut.texts, cut.is_cut) == (("first é", "se"), True)
    # The letter of two bytes goes whole, not by half.
    assert read_texts([str(one)], max_bytes=7).texts == ("first ",)
    assert not read_texts([str(one)], max_bytes=8).is_cut
    exact = read_texts([str(one), str(two)], max_bytes=8)
    assert (exact.texts, exact.is_cut) == (("first é",), True)


def test_what_holds_no_text_is_refused(tmp_path: Path) -> None:
    empty, page = tmp_path / "empty.jsonl", tmp_path / "page.html"
    empty.write_text('{"text": ""}\n{broken\n')
    page.write_text("<html></html>")
    with pytest.raises(ValueError, match=r"no text found, dropped \{'empty': 1, 'invalid_json': 1"):
        read_texts([str(empty)])
    with pytest.raises(ValueError, match="is html: measure on text"):
        read_texts([str(page)])
    with pytest.raises(ValueError, match="there is no text file"):
        read_texts([str(tmp_path / "missing.txt")])
