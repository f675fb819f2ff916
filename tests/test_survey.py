"""The statistics mode writes every value of every document and drops nothing."""

import json
from pathlib import Path

import pytest
from chain_helpers import prepare
from corpus_helpers import write_corpus
from stage_helpers import table_rows

from corpus.recipe import load_recipe
from pipeline.refresh import refresh
from pipeline.rules import RULES
from pipeline.survey import survey


def test_every_document_has_every_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    recipe = load_recipe(str(write_corpus(tmp_path, files=2, documents=50)))
    lines = list(survey(recipe, str(tmp_path / "out")))
    rows = [row for path in (tmp_path / "out" / "statistics").iterdir() for row in table_rows(path)]
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
