"""Pages on cleaning: pictures of every statistic, excerpts beside thresholds, broken files."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from corpus.forgotten import Forgotten
from corpus.recipe import Clean, Recipe, Source
from corpus.records import Damage, Record
from corpus.snapshots import Snapshot, Tree
from pipeline import cleaning_report, tallies
from pipeline.chain import Chain
from pipeline.clean import Cleaner, Origin, write_nearest
from pipeline.cleaning_report import distributions, languages, unreadable
from pipeline.cuts import of_file
from pipeline.explain import Store
from pipeline.rules import thresholds
from pipeline.settled import Lists
from pipeline.tallies import describe_cleaning

CLEAN = Clean.model_validate(
    {
        "rules": ["gopher_quality", "c4"],
        "thresholds": {"gopher_min_words": 8, "gopher_stop_words": 1, "c4_min_sentences": 1,
                       "c4_lorem_ipsum": None},
        "languages": {"min_score": 60},
    }
)  # fmt: skip
HOSTILE = "The <script>alert(1)</script> of & the river runs to the sea and on and on."


def describe(records: Sequence[Record | Damage], file: str, root: Path) -> dict[str, Any]:
    """Clean records as one part; return what a task says of it."""
    origin = Origin("d", "s")
    (part,) = Cleaner(origin, Chain(CLEAN, Lists())).parts(of_file(file, records))
    write_nearest(Tree(str(root)), file, part.nearest.table(Forgotten()))
    return {
        "name": file, "origin": origin._asdict(), "documents": len(part.documents()),
        "dropped": {"any": len(part.drops)}, "languages": {"en": 1}, "changed": {},
        "distributions": part.distributions, "nearest": part.nearest.places(),
        "records": part.records, "unreadable": part.unreadable,
    }  # fmt: skip


def store_in(root: Path) -> Store:
    recipe = Recipe(store="s", snapshot="d", sources=(Source(name="s", paths=("x",)),), clean=CLEAN)
    snapshot = SimpleNamespace(recipe=recipe.model_dump(mode="json"))
    return Store(str(root), Tree(str(root)), cast(Snapshot, snapshot))


def record(position: int, text: str) -> Record:
    return Record(position, f"k{position}", text, None, None, None)


def page(root: Path, records: Sequence[Record | Damage]) -> str:
    stats = describe_cleaning({"s": [describe(records, "x", root)]})
    store = store_in(root)
    return "\n".join([*distributions(store, stats), *languages(store, stats)])


def test_every_statistic_has_its_picture_with_its_threshold(tmp_path: Path) -> None:
    shown = page(tmp_path, [record(1, HOSTILE), record(2, "the of a")])
    for rule, limit in thresholds(CLEAN).items():
        assert (f"<h3>{rule}, " in shown) == (limit is not None)
    assert "<h3>c4_line_min_words, min 3</h3>" in shown and "Lines by their value for c4" in shown
    assert "<h3>language_score, min 60</h3>" in shown
    assert shown.count(" 420 ") == shown.count('class="curve"') + 1  # languages have no threshold


def test_least_scores_by_language_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_code = CLEAN.languages.model_copy(update={"min_score": {"ru": 40, "en": 60}})
    monkeypatch.setattr(
        "test_cleaning_report.CLEAN", CLEAN.model_copy(update={"languages": by_code})
    )
    shown = page(tmp_path, [record(1, HOSTILE)])
    assert "<h3>language_score, min by language: en 60, ru 40</h3>" in shown


def test_both_sides_are_read_and_nothing_in_them_is_markup(tmp_path: Path) -> None:
    records = [record(1, HOSTILE), record(2, "The <b>short</b> & the " + "word " * 3)]
    rows = cleaning_report._nearest(
        store_in(tmp_path),
        describe_cleaning({"s": [describe(records, "x", tmp_path)]}),
        ["gopher_min_words", "gopher_max_words"],
    )
    assert [(row["side"], row["id"]) for row in rows["gopher_min_words"]] == [
        ("dropped", "s/k2"), ("kept", "s/k1"),
    ]  # fmt: skip
    assert [row["side"] for row in rows["gopher_max_words"]] == ["kept"]
    shown = page(tmp_path, records)
    assert "The &lt;b&gt;short&lt;/b&gt; &amp; the word word word" in shown
    assert "<script" not in shown and "&lt;script&gt;" in shown


def test_a_long_text_is_seen_to_go_on(tmp_path: Path) -> None:
    shown = page(tmp_path, [record(1, "The river of the " + "long " * 100 + "way.")])
    assert "long lon\u2026" in shown or "long l\u2026" in shown or "long\u2026" in shown


def test_what_was_taken_down_since_is_left_out(tmp_path: Path) -> None:
    stats = describe_cleaning({"s": [describe([record(1, HOSTILE)], "x", tmp_path)]})
    (tmp_path / "nearest" / "x.parquet").unlink()
    assert "river" not in "\n".join(distributions(store_in(tmp_path), stats))
    without = {key: value for key, value in stats.items() if key != "nearest"}
    assert "river" not in "\n".join(distributions(store_in(tmp_path), without))


def test_a_store_without_rules_says_so(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert "No rule looked at" in "".join(distributions(store, {}))
    assert "No language was looked for" in "".join(languages(store, {}))


def broken(count: int, first: int, rule: str = "invalid_json") -> list[Record | Damage]:
    return [Damage(first + n, rule, "why <not>") for n in range(count)]


def test_broken_records_are_told_by_file_the_worst_first(tmp_path: Path) -> None:
    parts = [
        describe([*broken(2, 7), record(9, HOSTILE)], "a", tmp_path),
        describe([Damage(1, "record_too_long", "bytes", 9.0, 5.0), *broken(3, 2)], "a", tmp_path),
        describe(broken(4, 1, "warc_request"), "b", tmp_path),
        describe([*broken(1, 3, "http_status"), *broken(1, 4, "corrupt_archive")], "c", tmp_path),
    ]
    told = describe_cleaning({"s": parts})["unreadable"]
    assert (told["records"], told["files"]) == (7, 2)
    rows = [(each["file"], each["rule"], each["count"], each["records"]) for each in told["worst"]]
    assert rows == [
        ("a", "invalid_json", 5, 7), ("a", "record_too_long", 1, 7), ("c", "corrupt_archive", 1, 2),
    ]  # fmt: skip
    assert [first[0] for first in told["worst"][0]["first"]] == [2, 3, 4]
    assert told == describe_cleaning({"s": parts[::-1]})["unreadable"]
    shown = "".join(unreadable({"unreadable": told}))
    assert "record 2 (why &lt;not&gt;); record 3 (" in shown
    assert "record 1 (9 bytes, threshold 5)" in shown
    assert "warc_request" not in shown and "http_status" not in shown


def test_a_page_that_cannot_be_read_is_broken_too(tmp_path: Path) -> None:
    page = Record(1, "k", "", None, None, None, "html", bytes(range(128, 256)) * 40)
    (worst,) = describe_cleaning({"s": [describe([page], "a", tmp_path)]})["unreadable"]["worst"]
    assert (worst["rule"], worst["count"], worst["first"][0][0]) == ("page_not_text", 1, 1)


def test_of_many_broken_files_the_worst_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tallies, "_WORST", 5)
    monkeypatch.setattr(cleaning_report, "_FILES", 3)
    parts = [describe(broken(n + 1, 1), f"f{n}", tmp_path) for n in range(8)]
    told = describe_cleaning({"s": parts})["unreadable"]
    assert (told["records"], told["files"], len(told["worst"])) == (36, 8, 5)
    shown = "".join(unreadable({"unreadable": told}))
    assert [f">f{n}<" in shown for n in range(8)] == [False] * 5 + [True] * 3
    assert "The 5 worst files and rules are in stats.json." in shown
    assert "No broken record was found" in "".join(unreadable({}))
