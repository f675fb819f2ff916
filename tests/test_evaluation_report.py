"""What a report says of scores: verdicts by hand, and what reading and encoding cut away."""

import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import yaml
from corpus_helpers import REPOSITORY
from evaluation_helpers import task_of
from tuning_helpers import result_of, write_checkpoint, write_task

from pretrain.evaluation.baselines import Baseline
from pretrain.evaluation.evaluate import evaluate, run_evaluation
from pretrain.evaluation.features import Encoded
from pretrain.evaluation.fits import fit_of, tell_fits
from pretrain.evaluation.loop import Hyperparameters
from pretrain.evaluation.prepared import task_identity
from pretrain.evaluation.protocol import Cell, Entry, spread
from pretrain.evaluation.recipe import RANDOM, Evaluation
from pretrain.evaluation.report import Report, Sizes, misfits, verdicts
from pretrain.evaluation.table import show_report
from pretrain.evaluation.tasks import load_task
from pretrain.evaluation.tuning import Run

TASK = load_task({"name": "toy", "kind": "classification", "format": "jsonl", "metrics": ["f1"]})


def entry(name: str, *values: float) -> Entry:
    return Entry(
        contestant=name,
        task="toy",
        cells=(),
        best_cell=0,
        best_run=0,
        validation={"f1": spread(values)},
        test={},
    )


def report(*entries: Entry, tfidf: float | None = None) -> Report:
    baselines = []
    if tfidf is not None:
        baselines.append(Baseline(name="tfidf", task="toy", validation={"f1": tfidf}))
    return Report(tasks=(TASK,), sizes={}, entries=entries, baselines=tuple(baselines))


@pytest.mark.parametrize(
    ("mine", "drawn", "said"),
    [
        ((0.70, 0.71, 0.72), (0.40, 0.45, 0.69), "beats random weights (+26.0 points)"),
        # One lucky seed of random weights lies above all of ours: that decides nothing.
        (
            (0.70, 0.71, 0.72),
            (0.40, 0.45, 0.73),
            "is not told apart from random weights (+26.0 points, within the spread)",
        ),
        (
            (0.10, 0.45, 0.73),
            (0.70, 0.71, 0.72),
            "is not told apart from random weights (-26.0 points, within the spread)",
        ),
        ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "is below random weights (-30.0 points)"),
        # Seeds that touch are not apart, on either side.
        (
            (0.3, 0.4),
            (0.1, 0.3),
            "is not told apart from random weights (+15.0 points, within the spread)",
        ),
        ((0.5,), (0.4,), "beats random weights (+10.0 points, one seed)"),
    ],
)
def test_only_seeds_that_lie_apart_decide(
    mine: tuple[float, ...], drawn: tuple[float, ...], said: str
) -> None:
    assert verdicts(report(entry("ours", *mine), entry(RANDOM, *drawn))) == [f"toy: ours {said}"]


def test_a_baseline_is_one_number() -> None:
    for value, said in (
        (0.69, "beats tfidf (+2.0 points)"),
        (0.705, "is not told apart from tfidf (+0.5 points, within the spread)"),
        (0.75, "is below tfidf (-4.0 points)"),
    ):
        assert verdicts(report(entry("ours", 0.70, 0.71, 0.72), tfidf=value)) == [
            f"toy: ours {said}"
        ]


def test_the_terminal_shows_names_as_they_are_and_says_what_is_counted() -> None:
    """Square brackets in names were taken for markup, and vanished."""
    task = TASK.model_copy(update={"name": "toy [v2]"})
    mine = entry("ours [large]", 0.5).model_copy(update={"task": task.name, "best_cell": 0})
    cell = Cell(hyperparameters=Hyperparameters(learning_rate=1, batch_size=1), results=())
    sizes = Sizes(examples={"train": 1000, "validation": 80}, drops={}, dropped=(), labels=())
    found = Report(
        tasks=(task,),
        sizes={task.name: sizes},
        entries=(mine.model_copy(update={"cells": (cell,)}),),
        baselines=(),
    )
    shown = show_report(found)
    first = shown.splitlines()[0]
    assert first == "toy [v2] (classification; examples: 1,000 in train, 80 in validation)"
    assert "ours [large]" in shown


def test_what_diverged_has_no_verdict() -> None:
    nothing = entry("ours", math.nan).model_copy(update={"validation": {}})
    assert verdicts(report(nothing, tfidf=0.5)) == []


def test_what_did_not_fit_is_told_by_kind() -> None:
    some = fit_of(Encoded((), truncated=12, lost=3, vanished=2), 8000, 128)
    cut = fit_of(Encoded((), 12, 0, 0), 8000, 128)
    assert tell_fits(task_of("regression"), {"train": cut}) == [
        "t: 12 of 8,000 train texts cut at 128 tokens"
    ]
    assert tell_fits(task_of("answering"), {"test": some}) == [
        "t: 12 of 8,000 test texts cut into pieces of 128 tokens",
        "t: 3 of 8,000 test answers lie whole in no piece",
        "t: 2 test words have no token, so no tag",
    ]
    assert tell_fits(TASK, {"train": fit_of(Encoded((), 0, 0, 0), 8000, 128)}) == []


def test_whose_inputs_were_too_short_is_told_where_they_differ() -> None:
    short = {"train": fit_of(Encoded((), 12, 0, 0), 20, 128)}
    long = {"train": fit_of(Encoded((), 1, 0, 0), 20, 512)}
    one, two = entry("one", 0.5), entry("two", 0.5)
    same = [each.model_copy(update={"fits": short}) for each in (one, two)]
    assert misfits(report(*same), TASK) == ["toy: 12 of 20 train texts cut at 128 tokens"]
    differ = [same[0], two.model_copy(update={"fits": long})]
    assert misfits(report(*differ), TASK) == [
        "toy: 12 of 20 train texts cut at 128 tokens (one)",
        "toy: 1 of 20 train texts cut at 512 tokens (two)",
    ]


def test_cut_texts_and_further_sets_show_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of the training texts are too long; a second set beside validation is scored too."""
    task = write_task(tmp_path, "classification")
    train, validation = Path(task.train[0]), Path(task.validation[0])
    lines = train.read_text().splitlines()
    long = {"text": "zzz " * 99, "label": "up"}
    train.write_text("\n".join([*lines, *[orjson.dumps(long).decode()] * 2]))
    other = tmp_path / "other.jsonl"
    other.write_text("".join(validation.read_text().splitlines(keepends=True)[:7]))
    further = task.model_copy(update={"also": {"mismatched": (str(other),)}})
    evaluation = Evaluation.model_validate(
        {
            "output": str(tmp_path / "out"),
            "checkpoints": [{"name": "ours", "path": write_checkpoint(tmp_path / "checkpoint")}],
            "tasks": [further],
            "grid": {"learning_rates": [5e-3], "batch_sizes": [8], "epochs": 1},
            "seeds": [0],
            "baselines": ["majority"],
        }
    )
    note = "toy-classification: 2 of 50 train texts cut at 32 tokens"
    with caplog.at_level(logging.WARNING, logger="pretrain"):
        shown = run_evaluation(evaluation)
    assert note in caplog.text
    assert note in shown.splitlines()
    assert "test accuracy" in shown and "mismatched accuracy" in shown
    assert "7 in mismatched" in shown
    found = orjson.loads((tmp_path / "out" / "results.json").read_bytes())
    (ours,), (majority,) = found["entries"], found["baselines"]
    assert ours["fits"]["train"]["truncated"] == 2
    assert ours["fits"]["train"]["limit"] == 32
    assert set(ours["test"]) == set(majority["test"]) == {"accuracy", "mismatched accuracy"}
    rows = [orjson.loads(line) for line in other.read_text().splitlines()]
    frequent = max(("down", "up"), key=[orjson.loads(x)["label"] for x in lines].count)
    expected = sum(row["label"] == frequent for row in rows) / 7
    assert majority["test"]["mismatched accuracy"] == expected
    page = (tmp_path / "out" / "report.html").read_text()
    assert note in page and "mismatched accuracy" in page
    card = (tmp_path / "out" / "models" / "ours" / "toy-classification" / "README.md").read_text()
    assert "|  | validation | test | mismatched |" in card
    assert note in card
    # The set is part of what makes a run; a task without one keeps its identity.
    assert task_identity(further)["examples"].keys() - task_identity(task)["examples"].keys() == {
        "mismatched"
    }
    assert "also" not in task_identity(task)["task"]


def test_the_command_prints_its_tables_alone_and_logs_scores_as_numbers(tmp_path: Path) -> None:
    task = write_task(tmp_path, "classification").model_dump(mode="json")
    recipe = {
        "output": str(tmp_path / "out"),
        "checkpoints": [{"name": "ours", "path": write_checkpoint(tmp_path / "checkpoint")}],
        "tasks": [{key: value for key, value in task.items() if value is not None}],
        "grid": {"learning_rates": [5e-3], "batch_sizes": [8], "epochs": 1},
        "seeds": [0],
        "baselines": ["majority"],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", "evaluate", str(path)],
        cwd=REPOSITORY,
        env={key: value for key, value in os.environ.items() if key != "DS_ACCELERATOR"},
        capture_output=True,
        text=True,
        check=True,
    )
    first, *_, page, model = done.stdout.splitlines()
    assert first.startswith("toy-classification (classification; ")
    assert page == f"page: {tmp_path}/out/report.html"
    assert model == f"model: {tmp_path}/out/models/ours/toy-classification"
    assert re.search(
        r"majority on toy-classification: accuracy 0\.\d{4}$", done.stderr, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("config.json", "there is no checkpoint at .*second: expected a directory"),
        ("tokenizer.json", "second holds no tokenizer that loads"),
        ("model.safetensors", "second holds no weights: expected model.safetensors"),
    ],
)
def test_every_checkpoint_is_looked_at_before_anything_is_computed(
    tmp_path: Path, lost: str, said: str
) -> None:
    paths = [write_checkpoint(tmp_path / name) for name in ("first", "second")]
    for path in Path(paths[1]).iterdir():
        if path.name == lost or (lost == "tokenizer.json" and path.suffix == ".txt"):
            path.unlink()
    evaluation = Evaluation.model_validate(
        {
            "output": str(tmp_path / "out"),
            "checkpoints": [{"name": path, "path": path} for path in paths],
            "tasks": [write_task(tmp_path, "classification")],
            "seeds": [0],
        }
    )
    with pytest.raises(ValueError, match=said):
        evaluate(evaluation)
    assert not (tmp_path / "out").exists()


def test_a_seed_that_diverged_is_below_all_others() -> None:
    """Of three seeds two have scores; README: one beats another only where all of its seeds do."""
    task = load_task(TASK.model_dump() | {"train": ["none"]})
    run = Run(checkpoint="none", tasks=(task,), hyperparameters=Hyperparameters(), seed=0)
    results = tuple(result_of(value, run) for value in (0.7, math.nan, 0.8))
    cell = Cell(hyperparameters=run.hyperparameters, results=results)
    mine = entry("ours", 0.7, 0.8).model_copy(update={"cells": (cell,)})
    assert verdicts(report(mine, tfidf=0.5)) == [
        "toy: ours is not told apart from tfidf (+25.0 points, within the spread)"
    ]
    drawn = mine.model_copy(update={"contestant": RANDOM})
    assert verdicts(report(entry("ours", 0.5, 0.6), drawn)) == [
        "toy: ours is not told apart from random weights (-20.0 points, within the spread)"
    ]
