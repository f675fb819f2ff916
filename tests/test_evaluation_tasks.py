"""Tasks: presets, what overrides them, and errors that say what is wrong."""

from typing import Any

import pytest

from pretrain.evaluation.presets import PRESETS
from pretrain.evaluation.tasks import FORMATS, METRICS, ROLES, load_task


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_a_task(name: str) -> None:
    task = load_task({"name": name})
    assert task.name == name
    assert load_task({"name": "mine", "preset": name}) == task.model_copy(update={"name": "mine"})


def test_the_tasks_of_the_issue_are_presets() -> None:
    glue = {"cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"}
    assert glue | {"conll2003", "squad", "squad2", "race", "trec", "wikigold", "tnews"} <= set(
        PRESETS
    )


def test_values_override_a_preset_and_columns_merge() -> None:
    task = load_task({"name": "rte", "columns": {"pair": None, "id": "index"}, "max_length": 64})
    assert task.columns == {
        "text": ("sentence1", "premise", "question1"), "label": "label", "id": "index",
    }  # fmt: skip
    assert task.max_length == 64


def test_further_sets_have_names_and_files_of_their_own() -> None:
    sets = {"validation": ["m.tsv"], "also": {"mismatched": ["mm.tsv"]}}
    task = load_task({"name": "mnli", **sets})
    assert task.scored == {"mismatched": ("mm.tsv",)}
    task = load_task({"name": "mnli", **sets, "test": ["t.tsv"]})
    assert task.scored == {"test": ("t.tsv",), "mismatched": ("mm.tsv",)}
    for name in ("test", "validation", ""):
        with pytest.raises(ValueError, match=f"also has a set '{name}': give it a name of its own"):
            load_task({"name": "mnli", "also": {name: ["mm.tsv"]}})
    with pytest.raises(ValueError, match="also has no files for mismatched"):
        load_task({"name": "mnli", "also": {"mismatched": []}})


def test_numbers_as_labels_are_text() -> None:
    assert load_task({"name": "cola", "labels": [0, 1]}).labels == ("0", "1")


def test_tables_of_kinds_agree() -> None:
    assert set(ROLES) == set(FORMATS) == set(METRICS)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "ssst2"}, "task ssst2 is no preset, the nearest is sst2"),
        ({"name": "x", "preset": "colla"}, "there is no preset colla: did you mean cola"),
        ({"name": "cola", "metricks": ["f1"]}, "task cola: unknown key metricks: did you mean met"),
        ({"name": "cola", "metrics": ["span_f1"]}, "metric span_f1 is not for classification"),
        ({"name": "cola", "metrics": []}, "metrics"),
        ({"name": "cola", "format": "conll"}, "format conll holds no classification: take tsv"),
        ({"name": "squad", "metrics": ["best_f1"]}, "best_f1 needs no_answer"),
        ({"name": "conll2003", "spans": False}, "span_f1 needs spans"),
        ({"name": "stsb", "labels": ["a", "b"]}, "labels is given, but regression has none"),
        ({"name": "cola", "labels": ["a", "a"]}, "expected two or more different ones"),
        ({"name": "cola", "columns": {"words": 1}}, "columns has words, but tsv of classification"),
        ({"name": "trec", "columns": {"text": 1}}, "lines of classification: it has none"),
        ({"name": "cola", "columns": {"text": "s"}}, "column of text is 's': the columns have num"),
        ({"name": "conll2003", "columns": {"tags": -1}}, "column of tags is -1, expected 0"),
        ({"name": "sst2", "encoding": "klingon"}, "klingon, which Python does not know"),
        ({"name": "sst2", "encoding": "utf-16"}, "utf-16, expected one that contains ASCII"),
        ({"name": "sst2", "max_length": 3}, "max_length: .* found 3"),
        ({}, "task None is no preset"),
    ],
)
def test_what_does_not_fit_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task(values)
