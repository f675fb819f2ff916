"""The statistics mode writes every value of every document and drops nothing."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chain_helpers import prepare
from corpus_helpers import write_corpus
from stage_helpers import table_rows

from corpus.recipe import Recipe, load_recipe
from pipeline.boilerplate import Boilerplate
from pipeline.inputs import find_inputs
from pipeline.jobs import Pool
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
    places = {"id", "file", "position", "language", "language_score"}
    assert set(rows[0]) == {*places, *(rule.name for rule in RULES if not rule.listed)}
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
        patch.setattr("pipeline.survey.measure_cut", None)
        lower = measure("clean.thresholds.gopher_min_words=15")
        assert told_of(lower, "gopher_min_words") == ["min", "15", "0.0"]
        assert told_of(lower, "gopher_max_words") == ["max", "100000", "0.0"]
        off = measure("clean.thresholds.gopher_min_words=null")
        assert told_of(off, "gopher_min_words") == ["min", "off", "-"]
    c4 = measure("clean.rules=[c4]", "clean.thresholds.c4_line_min_words=5")
    (found,) = (line.split() for line in c4 if line.split()[0] == "c4_line_min_words")
    assert found[1:] == ["min", "5", "lines", *["1"] * 5]
    assert not any("c4_bad_words" in line for line in c4)
    with pytest.raises(ValueError, match=r"unknown rule gopher_min_wrods in clean\.thresholds"):
        measure("clean.thresholds.gopher_min_wrods=3")


def test_a_list_of_bad_words_has_its_column(
    tmp_path: Path, measure: Callable[..., list[str]]
) -> None:
    (tmp_path / "words.txt").write_text("cookies\ngo on\n")
    listed = measure("clean.rules=[c4]", f"clean.c4_bad_words=[{tmp_path / 'words.txt'}]")
    assert told_of(listed, "c4_bad_words") == ["max", "0", "100.0"]
    (path,) = (tmp_path / "out" / "statistics").glob("*/*")
    assert table_rows(path)[0]["c4_bad_words"] == 2


def test_a_large_file_is_measured_in_pieces_and_some_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    lines = [json.dumps({"id": str(n), "text": f"{LINE} {n}"}) for n in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    sources = [{"name": "s", "paths": [str(tmp_path / "a.jsonl")]}]
    (tmp_path / "r.yaml").write_text(
        json.dumps({"store": "x", "snapshot": "one", "sources": sources})
    )
    recipe = load_recipe(str(tmp_path / "r.yaml"))
    told = list(survey(recipe, str(tmp_path / "whole")))
    (whole,) = (tmp_path / "whole" / "statistics").glob("*/*")
    assert pq.ParquetFile(whole).num_row_groups == 1
    monkeypatch.setattr("pipeline.cuts.PIECE_BYTES", 1000)
    monkeypatch.setattr("pipeline.parquet.COLUMN_GROUP_ROWS", 4)
    monkeypatch.setattr("pipeline.clean._BATCH_RECORDS", 3)
    assert list(survey(recipe, str(tmp_path / "cut")))[:-1] == told[:-1]
    pieces = sorted((tmp_path / "cut" / "statistics").glob("*/*"))
    assert len(pieces) > 2
    assert pq.ParquetFile(pieces[0]).metadata.row_group(0).num_rows == 6  # two batches of three
    assert [row for path in pieces for row in table_rows(path)] == table_rows(whole)


def test_a_changed_file_is_not_measured(measure: Callable[..., list[str]], tmp_path: Path) -> None:
    listed = tmp_path / "a.jsonl"

    def change(recipe: Recipe, pool: Pool) -> object:
        found = find_inputs(recipe, pool)
        listed.write_text(listed.read_text() + "\n")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.survey.find_inputs", change)
        with pytest.raises(ValueError, match=r"a\.jsonl changed since it was listed"):
            measure()


def test_language_scores_are_told_by_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A least score by language drops as many of each as a refresh would."""
    prepare(monkeypatch)
    english = "All human beings are born free and equal in dignity and rights. "
    german = "Alle Menschen sind frei und gleich an Wuerde und Rechten geboren. "
    texts = [english * 3, english * 2 + german, german * 3, "12345 -- 678"]
    lines = [json.dumps({"text": text, "language": "xy"}) for text in texts]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    sources = [{"name": "s", "paths": [str(tmp_path / "a.jsonl")]}]
    recipe = {"store": "x", "snapshot": "one", "sources": sources}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))

    def measure(scores: str) -> dict[str, list[str]]:
        given = [f"clean.languages.min_score={scores}"]
        lines = survey(load_recipe(str(tmp_path / "r.yaml"), given), str(tmp_path / "out"))
        told = (line.split() for line in lines)
        return {each[0]: each[1:5] for each in told if each[0].startswith("language_score")}

    told = measure("{en: 80}")
    assert told["language_score"] == ["min", "by", "code", "25.0"]
    assert told["language_score.en"] == ["min", "80", "50.0", "%"]
    assert told["language_score.de"] == ["min", "off", "0.0", "%"]
    assert told["language_score.und"] == ["min", "off", "0.0", "%"]
    assert measure("50")["language_score"] == ["min", "50", "25.0", "%"]  # of no language
    (path,) = (tmp_path / "out" / "statistics").glob("*/*")
    rows = table_rows(path)
    assert [row["language"] for row in rows] == ["en", "en", "de", "xy"]
    assert [row["language_score"] > 80 for row in rows] == [True, False, True, False]
