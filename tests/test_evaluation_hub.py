"""Tasks from a directory of the `datasets` library: saved splits and data files, all kinds."""

import json
from pathlib import Path

import datasets
import pytest
from evaluation_helpers import task_of

from pretrain.evaluation.examples import (
    QuestionExample,
    TaggedExample,
    TextExample,
    read_split,
    read_task,
)
from pretrain.evaluation.tasks import load_task


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library's cache with the test and the library off the network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def save(directory: Path, features: datasets.Features, **splits: dict[str, list[object]]) -> str:
    made = {
        split: datasets.Dataset.from_dict(columns, features) for split, columns in splits.items()
    }
    datasets.DatasetDict(made).save_to_disk(str(directory))
    return str(directory)


def test_classes_come_by_name_and_hidden_ones_are_none(tmp_path: Path) -> None:
    features = datasets.Features(
        sentence=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"])
    )
    root = save(
        tmp_path / "sst2", features,
        train={"sentence": ["a", "b", ""], "label": [1, 0, 1]},
        validation={"sentence": ["c"], "label": [1]},
        test={"sentence": ["d"], "label": [-1]},
    )  # fmt: skip
    task = load_task(
        {
            "name": "sst2",
            "format": "datasets",
            "train": [f"{root}@train"],
            "validation": [f"{root}@validation"],
        }
    )
    data = read_task(task)
    assert data.labels == ("bad", "good")
    assert [each.label for each in data.train.examples if isinstance(each, TextExample)] == [
        "good",
        "bad",
    ]
    assert data.train.dropped == (f"{root}@train row 2: empty text",)
    with pytest.raises(ValueError, match=r"no usable example of sst2: .* row 0: no label"):
        read_split(task, [f"{root}@test"])
    assert len(read_split(task, [f"{root}@test"], labelled=False).examples) == 1


def test_tags_come_by_name(tmp_path: Path) -> None:
    tags = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")), ner_tags=datasets.List(tags)
    )
    root = save(
        tmp_path / "ner",
        features,
        train={"tokens": [["Ann", "Lee", "ran"]], "ner_tags": [[1, 2, 0]]},
    )
    task = load_task({"name": "conll2003", "format": "datasets"})
    (example,) = read_split(task, [f"{root}@train"]).examples
    assert isinstance(example, TaggedExample)
    assert (example.words, example.tags) == (("Ann", "Lee", "ran"), ("B-PER", "I-PER", "O"))


def test_data_files_of_a_directory(tmp_path: Path) -> None:
    line = {"id": "1", "question": "q", "context": "a b"}
    answers = {"text": ["b"], "answer_start": [2]}
    (tmp_path / "train.jsonl").write_text(json.dumps({**line, "answers": answers}) + "\n")
    task = load_task({"name": "squad", "format": "datasets"})
    (example,) = read_split(task, [f"{tmp_path}@train"]).examples
    assert example == QuestionExample("1", "q", "a b", (("b", 2),), False)


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    task = task_of("classification", format="datasets")
    with pytest.raises(ValueError, match=r"sst2 names no data set: write NAME\[:CONFIG\]@SPLIT"):
        read_split(task, ["sst2"])
    features = datasets.Features(text=datasets.Value("string"))
    root = save(tmp_path / "one", features, train={"text": ["a"]})
    with pytest.raises(ValueError, match="it has no split test, only train"):
        read_split(task, [f"{root}@test"])
    with pytest.raises(ValueError, match="it is one saved split: save a DatasetDict"):
        read_split(task, [f"{root}/train@train"])
    with pytest.raises(ValueError, match=r"nobody/nothing:x@train cannot be loaded by `datasets`"):
        read_split(task, ["nobody/nothing:x@train"])
