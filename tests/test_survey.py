"""The statistics mode writes every value of every document and drops nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from chain_helpers import prepare
from corpus_helpers import write_corpus
from stage_helpers import table_rows

from corpus.recipe import load_recipe
from pipeline.boilerplate import Boilerplate
from pipeline.refresh import refresh
from pipeline.rules import RULES
from pipeline.survey import survey


def test_every_document_has_every_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    recipe = load_recipe(str(write_corpus(tmp_path, files=2, documents=50)))
    lines = list(survey(recipe, str(tmp_path / "out")))
    (directory,) = (tmp_path / "out" / "statistics").iterdir()
    assert lines[-1] == f"the values lie in {directory}"
    rows = [row for path in directory.iterdir() for row in table_rows(path)]
    summary = refresh(recipe).snapshot.counts
    read = sum(
        count
        for rule, count in summary.documents_dropped.items()
        if not rule.startswith(("invalid_", "corrupt_"))
    )
    assert len(rows) == summary.documents_kept + read
    assert set(rows[0]) == {"id", "file", "position", "language", *(rule.name for rule in RULES)}
    short = [row for row in rows if row["gopher_min_words"] < 50]
    assert len(short) == summary.documents_dropped["gopher_min_words"]
    (told,) = (line.split() for line in lines if line.split()[0] == "gopher_min_words")
    assert told[1:4] == ["min", "50", f"{100 * len(short) / len(rows):.1f}"]
    assert lines[0].startswith(f"{len(rows)} documents")
    again = list(survey(recipe, str(tmp_path / "out")))
    assert again == lines
    json.dumps(rows)  # no NaN is hidden in them: what does not apply is null
    assert "NaN" not in json.dumps(rows)


def told_of(lines: list[str], rule: str) -> list[str]:
    (found,) = (line.split() for line in lines if line.split()[0] == rule)
    return found[1:4]


LINE = "Accept all cookies to go on."


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Measure one document of 15 words, of which a line has 6, as a recipe with overrides says."""
    prepare(monkeypatch)
    text = f"{LINE}\nOne two three four.\nFive six seven eight nine."
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "a", "text": text}))
    sources = [{"name": "s", "paths": [str(tmp_path / "a.jsonl")]}]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"store": "x", "snapshot": "one", "sources": sources}))
    return lambda *overrides: list(survey(load_recipe(str(recipe), overrides), f"{tmp_path}/out"))


def test_another_cleaning_is_measured_anew(
    tmp_path: Path, measure: Callable[..., list[str]]
) -> None:
    """A listed line is taken out of what is measured; the values without the list stay."""
    made = Boilerplate({}, {LINE: 2}).to_bytes()
    (tmp_path / "lines.jsonl").write_bytes(made)
    for overrides, words in (
        ([], 15),
        ([f"clean.boilerplate={tmp_path / 'lines.jsonl'}"], 9),
        ([], 15),
    ):
        directory = Path(measure(*overrides)[-1].removeprefix("the values lie in "))
        (row,) = (row for path in directory.iterdir() for row in table_rows(path))
        assert row["gopher_min_words"] == words
    assert len(list((tmp_path / "out" / "statistics").iterdir())) == 2


def test_the_recipe_s_thresholds_are_told(
    measure: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A threshold changes the share that it drops, not the values; of lines, the values too."""
    assert told_of(measure(), "gopher_min_words") == ["min", "50", "100.0"]
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.survey.measure_file", None)
        lower = measure("clean.thresholds.gopher_min_words=15")
        assert told_of(lower, "gopher_min_words") == ["min", "15", "0.0"]
        assert told_of(lower, "gopher_max_words") == ["max", "100000", "0.0"]
        off = measure("clean.thresholds.gopher_min_words=null")
        assert told_of(off, "gopher_min_words") == ["min", "off", "-"]
    c4 = measure("clean.rules=[c4]", "clean.thresholds.c4_line_min_words=5")
    (found,) = (line.split() for line in c4 if line.split()[0] == "c4_line_min_words")
    assert found[1:] == ["min", "5", "lines", *["1"] * 5]
    with pytest.raises(ValueError, match=r"unknown rule gopher_min_wrods in clean\.thresholds"):
        measure("clean.thresholds.gopher_min_wrods=3")
