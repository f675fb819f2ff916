"""Later deliveries are compared with the first one, source by source."""

import pytest

from corpus.snapshots import PartEntry
from pipeline.drift import Drift, Fertility, measure_drift, measure_fertility, tell_drift


def part(
    snapshot: str, source: str, tokens: int, text_bytes: int, words: int | None = None
) -> PartEntry:
    return PartEntry(
        name=f"{snapshot}-{source}-{tokens}", source=source, snapshot=snapshot, documents=1, kept=1,
        words=tokens // 2 if words is None else words,
        text_bytes=text_bytes, tokens=tokens, dropped={}, kept_digest="0", dropped_digest="0",
    )  # fmt: skip


PARTS = [
    part("one", "books", 100, 400), part("one", "books", 150, 600), part("one", "web", 100, 300),
    part("two", "books", 55, 200), part("two", "news", 26, 100), part("two", "web", 0, 0),
    part("three", "books", 25, 100), part("three", "books", 20, 100),
]  # fmt: skip


def test_drift_by_hand() -> None:
    found = measure_drift(PARTS, ["one", "two", "three"])
    assert found == [
        Drift("two", "books", 55, 200, 27, 250, 1000, 125),
        Drift(
            "two", "news", 26, 100, 13, 350, 1300, 175
        ),  # a new source: all of the first delivery
        Drift("two", "web", 0, 0, 0, 100, 300, 50),
        Drift("three", "books", 45, 200, 22, 250, 1000, 125),
    ]
    assert [each.percent for each in found] == [
        pytest.approx(110), pytest.approx(96.571, abs=1e-3), None, pytest.approx(90),
    ]  # fmt: skip
    assert [each.word_percent for each in found] == [
        pytest.approx(101.852, abs=1e-3), 100, None, pytest.approx(102.273, abs=1e-3),
    ]  # fmt: skip
    assert [each.is_due for each in found] == [True, False, False, False]


def test_one_delivery_has_not_drifted() -> None:
    assert measure_drift(PARTS[:3], ["one"]) == []
    assert measure_drift([], ["one"]) == []


@pytest.mark.parametrize(("tokens", "due"), [(109, False), (110, True), (111, True)])
@pytest.mark.parametrize("unit", ["bytes", "words"])
def test_a_tenth_more_is_due(unit: str, tokens: int, due: bool) -> None:
    """By bytes with as many tokens a word, and by words with fewer tokens a byte."""
    parts = {
        "bytes": [part("one", "s", 100, 10**15, 100), part("two", "s", tokens, 10**15, tokens)],
        "words": [part("one", "s", 100, 10**15, 50), part("two", "s", tokens, 10**16, 50)],
    }[unit]
    assert measure_drift(parts, ["one", "two"])[0].is_due == due


def test_texts_without_words_are_compared_by_bytes() -> None:
    (found,) = measure_drift([part("one", "s", 9, 9, 0), part("two", "s", 9, 9, 3)], ["one", "two"])
    assert (found.percent, found.word_percent, found.is_due) == (100, None, False)


def test_fertility_by_hand() -> None:
    found = measure_fertility(PARTS)
    assert found[:2] == [
        Fertility("one", "books", 125, 1000, 250), Fertility("one", "web", 50, 300, 100),
    ]  # fmt: skip
    assert [(each.snapshot, each.source) for each in found[2:]] == [
        ("two", "books"), ("two", "news"), ("two", "web"), ("three", "books"),
    ]  # fmt: skip


def test_what_is_due_is_told_of_the_newest_delivery() -> None:
    (line,) = tell_drift(PARTS, ["one", "two"])
    assert line.startswith(
        "books takes more tokens than the first delivery, 110 % a byte, 102 % a word: a tokenizer"
    )
    assert list(tell_drift(PARTS, ["one", "two", "three"])) == []
