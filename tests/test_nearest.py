"""The documents nearest to a threshold: as sorting all of them finds them, however they are cut."""

import random
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from forgotten_helpers import covers
from hypothesis import given
from hypothesis import strategies as st

from corpus.documents import text_hash
from corpus.forgotten import Forgotten, hash_id
from corpus.recipe import Clean
from corpus.records import Damage, Record
from pipeline import clean
from pipeline.chain import Chain
from pipeline.clean import Cleaner, Origin, Rows
from pipeline.cuts import of_file
from pipeline.judging import statistics_table
from pipeline.nearest import EXAMPLES, EXCERPT_CHARACTERS, limits_of, merge_places
from pipeline.rules import BY_NAME
from pipeline.settled import Lists

NONE = Forgotten()
HERE = Origin("first", "s")
CONFIG = Clean.model_validate(
    {
        "rules": ["gopher_quality", "fineweb"],
        "thresholds": {"gopher_min_words": 8, "gopher_max_words": 40, "gopher_stop_words": 1,
                       "fineweb_line_punctuation": None, "fineweb_short_lines": None},
        "languages": {"identify": False},
    }
)  # fmt: skip
WORDS = st.sampled_from(["the", "river", "of", "plain", "#", "...", "words\n", "a"])
TEXTS = st.lists(st.lists(WORDS, min_size=1, max_size=30).map(" ".join), max_size=25)


def record(position: int, text: str) -> Record:
    return Record(position, f"k{position}", text, f"http://x.test/{position}", "en", None)


def parts_of(
    records: Iterable[Record | Damage], config: Clean = CONFIG, forgotten: Forgotten = NONE
) -> list[Rows]:
    return list(Cleaner(HERE, Chain(config, Lists()), forgotten).parts(of_file("f", records)))


def nearest_of(parts: Iterable[Rows], forgotten: Forgotten = NONE) -> dict[Any, list[Any]]:
    """Return the nearest of all parts as a report finds them, by rule and side."""
    tables, known = {}, []
    for number, part in enumerate(parts):
        known.append({"name": str(number), "nearest": part.nearest.places()})
        for row in part.nearest.table(forgotten).to_pylist():
            tables[str(number), row["rule"], row["side"], row["rank"]] = row
    return {
        (rule, side): [
            tables[part, rule, side, rank]
            for _, rank, part in found
            if (part, rule, side, rank) in tables
        ]
        for rule, sides in merge_places(known).items()
        for side, found in sides.items()
    }


def expected_of(records: list[Record], config: Clean) -> dict[Any, list[tuple[float, str]]]:
    """Sort all documents by their distance; among equals, the order of places is not told here."""
    (whole,) = parts_of(records, config)
    kept = whole.documents().to_pylist()
    values = statistics_table(pa.array([row["text"] for row in kept], pa.string()), config)
    limits = limits_of(config)
    found: dict[Any, list[tuple[float, str]]] = {}
    for rule, limit in limits.items():
        for row, value in zip(kept, values[rule].to_pylist(), strict=True):
            if value is not None:
                found.setdefault((rule, "kept"), []).append((abs(value - limit), row["id"]))
    for row in whole.drops:
        if row["rule"] in limits:
            away = abs(row["value"] - limits[row["rule"]])
            found.setdefault((row["rule"], "dropped"), []).append((away, row["id"]))
    return found


@given(TEXTS)
def test_the_nearest_are_those_that_sorting_finds(texts: list[str]) -> None:
    records = [record(n, text) for n, text in enumerate(texts, 1)]
    found, expected = nearest_of(parts_of(records)), expected_of(records, CONFIG)
    assert found.keys() == expected.keys()
    limits = limits_of(CONFIG)
    for key, rows in found.items():
        away = [abs(row["value"] - limits[key[0]]) for row in rows]
        assert away == sorted(each for each, _ in expected[key])[:EXAMPLES]
        assert {(each, row["id"]) for each, row in zip(away, rows, strict=True)} <= {*expected[key]}
        order = [(each, row["rank"]) for each, row in zip(away, rows, strict=True)]
        assert order == sorted(order)


@given(TEXTS, st.lists(st.integers(0, 25), max_size=3), st.integers(1, 7))
def test_neither_parts_nor_batches_nor_pieces_show(
    texts: list[str], cuts: list[int], batch: int
) -> None:
    records = [record(n, text) for n, text in enumerate(texts, 1)]
    whole = nearest_of(parts_of(records))
    bounds = [0, *sorted(cuts), len(records)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "_BATCH_RECORDS", batch)
        patch.setattr(clean, "PART_BYTES", 3000)
        cut = [part for a, b in pairwise(bounds) for part in parts_of(records[a:b])]
    assert nearest_of(reversed(cut)) == whole


def test_by_hand() -> None:
    """Words against at least 8: 7 and 5 went, 9 and 12 stay; the text is the cleaned one."""
    texts = {1: 5, 2: 12, 3: 7, 4: 9}
    records = [record(n, "  " + " ".join(["the"] * count)) for n, count in texts.items()]
    thresholds = {"gopher_min_words": 8, "gopher_stop_words": 1}
    config = CONFIG.model_copy(update={"rules": ("gopher_quality",), "thresholds": thresholds})
    found = nearest_of(parts_of(records, config))
    shown = {
        side: [(row["id"], row["value"], row["text"]) for row in found["gopher_min_words", side]]
        for side in ("dropped", "kept")
    }
    assert shown == {
        "dropped": [("s/k3", 7.0, " ".join(["the"] * 7)), ("s/k1", 5.0, " ".join(["the"] * 5))],
        "kept": [("s/k4", 9.0, " ".join(["the"] * 9)), ("s/k2", 12.0, " ".join(["the"] * 12))],
    }
    row = found["gopher_min_words", "dropped"][0]
    assert (row["source"], row["snapshot"], row["file"], row["position"], row["url"]) == (
        "s", "first", "f", 3, "http://x.test/3",
    )  # fmt: skip
    assert ("gopher_max_words", "dropped") not in found


def test_an_excerpt_is_bounded_and_masked() -> None:
    config = Clean.model_validate(
        {"rules": ["gopher_quality"], "mask": ["email"], "languages": {"identify": False}}
    )
    text = "write to jane.doe@gmail.com please " + "long " * 1000
    few = "call jane.doe@gmail.com"
    (part,) = parts_of([record(1, few), record(2, "the of " + text)], config)
    rows = part.nearest.table(NONE).to_pylist()
    assert {row["side"] for row in rows} == {"kept", "dropped"}
    assert all(len(row["text"]) <= EXCERPT_CHARACTERS for row in rows)
    assert not any("jane.doe" in row["text"] for row in rows)


def test_a_language_that_is_not_sure_enough() -> None:
    english = "All human beings are born free and equal in dignity and rights. "
    german = "Alle Menschen sind frei und gleich an Wuerde und Rechten geboren. "
    config = Clean.model_validate({"rules": [], "languages": {"min_score": 80}})
    (part,) = parts_of([record(1, english * 3), record(2, english * 2 + german * 2)], config)
    found = nearest_of([part])
    assert [row["id"] for row in found["language_score", "kept"]] == ["s/k1"]
    (gone,) = found["language_score", "dropped"]
    assert (gone["id"], gone["value"]) == ("s/k2", part.drops[0]["value"])
    assert part.distributions["language_score"].keys() == {
        str(int(gone["value"] // 2)), str(int(found["language_score", "kept"][0]["value"] // 2)),
    }  # fmt: skip


def test_a_document_is_measured_against_the_score_of_its_language() -> None:
    english = "All human beings are born free and equal in dignity and rights. "
    german = "Alle Menschen sind frei und gleich an Wuerde und Rechten geboren. "
    config = Clean.model_validate({"rules": [], "languages": {"min_score": {"en": 80, "fr": 9}}})
    records = [record(1, english * 3), record(2, english * 2 + german), record(3, german * 3)]
    (part,) = parts_of(records, config)
    found = nearest_of([part])
    assert [row["id"] for row in found["language_score", "dropped"]] == ["s/k2"]
    # German needs no score: it is near to none.
    assert [row["id"] for row in found["language_score", "kept"]] == ["s/k1"]
    (away,) = [each[0] for each in part.nearest.places()["language_score"]["kept"]]
    assert away == found["language_score", "kept"][0]["value"] - 80
    (drop,) = part.drops
    assert (drop["rule"], drop["threshold"], drop["detail"]) == ("language_score", 80, "en")


@pytest.mark.parametrize(
    "listed",
    [
        {"ids": [hash_id("s/k3")]},
        {"url_prefixes": ["http://x.test/3"]},
        {"texts": [text_hash("the " * 7).hex()]},
        {"sources": ["s"]},
    ],
)
def test_what_was_taken_down_is_not_shown_and_not_replaced(listed: Mapping[str, Any]) -> None:
    """A rebuild with the list shows what a take-down leaves; a later delivery shows none of it."""
    forgotten = Forgotten.model_validate(listed)
    records = [record(n, "the " * count) for n, count in enumerate((5, 12, 7, 9, 3, 4, 2), 1)]
    before = nearest_of(parts_of(records))
    after = nearest_of(parts_of(records, forgotten=forgotten), forgotten)
    for key, rows in before.items():
        stays = [row for row in rows if not covers(forgotten, row)]
        assert after.get(key, []) == stays
    assert not any(row["id"] == "s/k3" for rows in after.values() for row in rows)
    assert [row["id"] for row in before["gopher_min_words", "dropped"]][:2] == ["s/k3", "s/k1"]


def test_a_rule_that_is_off_or_on_lines_has_no_neighbours() -> None:
    config = Clean.model_validate({"rules": ["c4"], "thresholds": {"c4_lorem_ipsum": None}})
    assert set(limits_of(config)) == {"c4_curly_bracket", "c4_min_sentences"}
    assert not any(BY_NAME[rule].on_lines for rule in limits_of(config))
    assert limits_of(Clean(rules=())) == {}


def test_many_equals_are_told_apart_by_their_places() -> None:
    """All documents hold no bracket: those shown are the least by a hash, of whatever batch."""
    texts = ["One. Two. Three. Four. Five sentences are here."] * 200
    config = Clean(rules=("c4",))
    records = [record(n, text) for n, text in enumerate(texts, 1)]
    whole = nearest_of(parts_of(records, config))["c4_curly_bracket", "kept"]
    assert len(whole) == EXAMPLES and {row["value"] for row in whole} == {0.0}
    random.Random(0).shuffle(records)
    ranks = sorted(
        row["rank"]
        for each in records
        for row in nearest_of(parts_of([each], config))["c4_curly_bracket", "kept"]
    )
    assert [row["rank"] for row in whole] == ranks[:EXAMPLES]
