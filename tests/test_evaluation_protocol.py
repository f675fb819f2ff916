"""The protocol: the paper's grid, the best by validation, and one command from files to a table."""

import io
import math
import statistics
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
import yaml
from transformers import pipeline
from tuning_helpers import KINDS, result_of, write_checkpoint, write_task

from pretrain.__main__ import main
from pretrain.evaluation import protocol, tuning
from pretrain.evaluation.baselines import run_baseline
from pretrain.evaluation.loop import Hyperparameters
from pretrain.evaluation.predict import predict_files
from pretrain.evaluation.protocol import run_protocol, spread, trials
from pretrain.evaluation.recipe import RANDOM, Evaluation, cells, load_evaluation
from pretrain.evaluation.tuning import Result
from pretrain.launch import open_cluster


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_checkpoint(tmp_path_factory.mktemp("base") / "checkpoint")


def recipe_of(directory: Path, checkpoint: str, *kinds: str, **others: object) -> dict[str, Any]:
    tasks = [write_task(directory, kind).model_dump(mode="json") for kind in kinds]
    small: dict[str, Any] = {
        "output": str(directory / "out"),
        "checkpoints": [{"name": "ours", "path": checkpoint}],
        "tasks": tasks,
        "grid": {"learning_rates": [5e-3], "batch_sizes": [8], "epochs": 1},
        "seeds": [0, 1],
    }
    return small | others


def load(directory: Path, values: dict[str, Any], *overrides: str) -> Evaluation:
    path = directory / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_evaluation(str(path), overrides)


def test_the_grid_is_the_papers(tmp_path: Path, checkpoint: str) -> None:
    values = recipe_of(tmp_path, checkpoint, *KINDS, grid={})
    evaluation = load(tmp_path, values, "task_grids.toy-choice.epochs=1")
    grids = {task.kind: cells(evaluation, task) for task in evaluation.tasks}
    glue = grids["classification"]
    assert [(each.learning_rate, each.batch_size) for each in glue] == [
        (1e-5, 16), (1e-5, 32), (2e-5, 16), (2e-5, 32), (3e-5, 16), (3e-5, 32),
    ]  # fmt: skip
    assert {(each.epochs, each.weight_decay, each.warmup_fraction) for each in glue} == {
        (10, 0.1, 0.06)
    }
    assert glue == grids["regression"] == grids["tagging"]
    (squad,), (race,) = grids["answering"], grids["choice"]
    assert (squad.learning_rate, squad.batch_size, squad.epochs) == (1.5e-5, 48, 2)
    assert squad.weight_decay == 0.01
    assert (race.learning_rate, race.batch_size, race.epochs) == (1e-5, 16, 1)
    # Two contestants (random weights too), 6 cells three times and two single ones, two seeds.
    assert len(trials(evaluation)) == 2 * 2 * (3 * 6 + 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grid.learning_rate=1", "unknown key grid.learning_rate: did you mean learning_rates?"),
        ("seed=[1]", "unknown key seed: did you mean seeds?"),
        ("seeds=[1,1]", "two seeds are called 1"),
        ("task_grids.sst.epochs=1", "task_grids names sst, which is no task here"),
        ("tasks=[{name: ssst2}]", "sst2"),
        ("seeds=[0, -1]", "seeds.1: Input should be greater than or equal to 0, found -1"),
        (
            "checkpoints=[{name: a b, path: x}, {name: a-b, path: y}]",
            "two checkpoints, a b and a-b, would be saved as a-b",
        ),
        ("workers=0", "workers"),
    ],
)
def test_a_wrong_recipe_is_told(
    override: str, message: str, tmp_path: Path, checkpoint: str
) -> None:
    with pytest.raises(ValueError, match=r"recipe\.yaml") as error:
        load(tmp_path, recipe_of(tmp_path, checkpoint, "choice"), override)
    assert message in str(error.value)


def test_tasks_together_have_one_grid(tmp_path: Path, checkpoint: str) -> None:
    """The first task's went for all of them, unsaid."""
    values = recipe_of(tmp_path, checkpoint, "classification", "answering", grid={})
    values["checkpoints"] = [{"name": "ours", "path": checkpoint, "together": True}]
    grid = "grid={learning_rates: [0.001], batch_sizes: [8], epochs: 1}"
    with pytest.raises(ValueError, match="checkpoint ours takes all tasks together") as error:
        load(tmp_path, values)
    message = str(error.value)
    assert "toy-classification and toy-answering differ in batch_sizes, epochs, lear" in message
    with pytest.raises(ValueError, match="toy-answering differ in weight_decay: give"):
        load(tmp_path, values, grid)
    with pytest.raises(ValueError, match="toy-answering differ in train_examples: give"):
        load(
            tmp_path,
            values,
            grid,
            "grid.weight_decay=0",
            "task_grids.toy-answering.train_examples=9",
        )
    load(tmp_path, values, grid, "grid.weight_decay=0", "task_grids.toy-answering.epochs=1")


def test_a_spread_by_hand() -> None:
    found = spread([0.5, 0.1, 0.2, 0.3])
    assert (found.median, found.low, found.high) == (0.25, 0.1, 0.5)
    assert math.isclose(found.lower_quartile, 0.175)
    assert math.isclose(found.upper_quartile, 0.35)
    assert found.values == (0.5, 0.1, 0.2, 0.3)


def test_the_best_cell_is_that_of_the_best_median(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Cell after cell, seed after seed: the second has the best run, the third the best median.
    values = [0.1, 0.2, 0.3, 0.0, 0.9, 0.1, 0.4, 0.6, math.nan]
    grid = {"learning_rates": [1, 2, 3], "batch_sizes": [8]}
    raw = recipe_of(
        tmp_path, checkpoint, "choice", grid=grid, seeds=[4, 5, 6], baselines=["majority"]
    )
    evaluation = load(tmp_path, raw)
    given = {
        (trial.run.hyperparameters, trial.run.seed): value
        for trial, value in zip(trials(evaluation), values, strict=True)
    }
    kept: set[tuple[Hyperparameters, int]] = set()

    def pretend(run: tuning.Run, out: str) -> tuple[Result, ...]:
        kept.add((run.hyperparameters, run.seed))
        return (result_of(given[run.hyperparameters, run.seed], run),)

    monkeypatch.setattr(protocol, "perform", pretend)
    monkeypatch.setattr(
        protocol, "drop_weights", lambda run, _: kept.discard((run.hyperparameters, run.seed))
    )
    (entry,) = run_protocol(evaluation)
    assert entry.winner.hyperparameters.learning_rate == 3
    assert entry.winner.value == statistics.median([0.4, 0.6, -math.inf])
    assert (entry.best.seed, entry.best.value) == (5, 0.6)
    assert entry.validation["accuracy"].values == (0.4, 0.6), "a run that diverged has no score"
    assert [(cell.learning_rate, seed) for cell, seed in kept] == [(3, 5)]
    assert [(c.learning_rate, run.seed) for _, run in protocol.best_runs(evaluation, [entry])
            for c in [run.hyperparameters]] == [(3, 5)]  # fmt: skip


def test_baselines_by_hand(tmp_path: Path) -> None:
    rows = [{"text": "zzz yes", "label": "b"}] * 3 + [{"text": "qqq no", "label": "a"}] * 2
    task = write_task(tmp_path, "classification").model_copy(update={"test": ()})
    train = Path(task.train[0])
    train.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    Path(task.validation[0]).write_bytes(b"\n".join(map(orjson.dumps, rows[2:])))
    majority = run_baseline("majority", task, str(tmp_path / "out"))
    assert majority.validation == {"accuracy": 1 / 3}
    linear = run_baseline("tfidf", task, str(tmp_path / "out"))
    assert linear.validation == {"accuracy": 1.0}
    assert linear == run_baseline("tfidf", task, str(tmp_path / "out")), "found again"
    other = task.model_copy(update={"name": "other"})
    again = run_baseline("tfidf", other, str(tmp_path / "out"))
    assert again == linear.model_copy(update={"task": "other"}), "the same data by another name"


@pytest.mark.parametrize("kind", KINDS)
def test_linear_models_learn_what_is_to_be_learned(kind: str, tmp_path: Path) -> None:
    task = write_task(tmp_path, kind)
    found = run_baseline("tfidf", task, str(tmp_path / "out"))
    if kind == "answering":
        assert found.reason == "tfidf has no counterpart for answering"
        assert found.validation is None
        return
    assert found.validation is not None
    assert found.validation[task.metrics[0]] > 0.95


def test_one_command_makes_table_page_and_models(
    tmp_path: Path,
    checkpoint: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    load(tmp_path, recipe_of(tmp_path, checkpoint, *KINDS, seeds=[0]))
    command = ["evaluate", str(tmp_path / "recipe.yaml")]
    assert main(command) == 0
    shown = capsys.readouterr().out
    for name in ("toy-tagging", "ours", RANDOM, "tfidf", "test accuracy", "no counterpart"):
        assert name in shown
    out = tmp_path / "out"
    results = orjson.loads((out / "results.json").read_bytes())
    assert [entry["task"] for entry in results["entries"][:5]] == [f"toy-{kind}" for kind in KINDS]
    page = (out / "report.html").read_text()
    ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    assert "http:" not in page
    assert "https:" not in page
    assert page.count("<svg") == 10
    _models_work(out / "models" / "ours")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    monkeypatch.setattr(tuning, "learn", lambda _: pytest.fail("trained again"))
    assert main(command) == 0
    assert capsys.readouterr().out == shown
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def _models_work(root: Path) -> None:
    """Use each saved model by transformers alone, and by our command; both say the same."""
    classify: Any = pipeline("text-classification", model=str(root / "toy-classification"))
    said = classify("the rain zzz")[0]
    (ours,) = predictions(root / "toy-classification", b"the rain zzz\n")
    assert said["label"] == ours["label"]
    assert math.isclose(said["score"], max(ours["probabilities"].values()), rel_tol=1e-4)
    (tagged,) = predictions(root / "toy-tagging", b"rain on Zurich\n")
    assert tagged["words"] == ["rain", "on", "Zurich"]
    assert set(tagged["tags"]) <= {"O", "B-LOC"}
    asked = {"id": "q", "question": "how many?", "context": "the 42 hat"}
    (answer,) = predictions(root / "toy-answering", orjson.dumps(asked))
    assert answer["id"] == "q"
    assert answer["answer"] in asked["context"]
    chosen = {"context": "it is red", "question": "what?", "options": ["red", "hat"]}
    (choice,) = predictions(root / "toy-choice", orjson.dumps(chosen))
    assert choice["option"] in (0, 1)
    (value,) = predictions(root / "toy-regression", b'{"text": "zzz", "pair": "the rain"}\n')
    assert math.isfinite(value["value"])
    card = (root / "toy-answering" / "README.md").read_text()
    assert "pipeline_tag: question-answering" in card


def predictions(model: Path, given: bytes) -> list[dict[str, Any]]:
    with pytest.MonkeyPatch.context() as patch:
        stream = io.BufferedReader(io.BytesIO(given))
        patch.setattr("sys.stdin", io.TextIOWrapper(stream))
        return [orjson.loads(line) for line in predict_files(str(model), [], None, 1)]


@pytest.mark.slow
@pytest.mark.cluster
def test_runs_side_by_side_are_the_same_runs(tmp_path: Path, checkpoint: str) -> None:
    good = [
        trial.run for trial in trials(load(tmp_path, recipe_of(tmp_path, checkpoint, "choice")))
    ]
    adapter = {"kind": "prompt", "virtual_tokens": 2}
    contestant = {"name": "ours", "path": checkpoint, "adapter": adapter}
    values = recipe_of(tmp_path, checkpoint, "tagging", checkpoints=[contestant])
    bad = trials(load(tmp_path, values))[0].run
    calls = [(run, str(tmp_path / "beside")) for run in [*good[:2], bad]]
    found = {}
    with pytest.raises(ValueError, match="prompt tuning does not fit tasks of tagging"):
        for number, results in open_cluster().run_side_by_side(tuning.perform, calls, 1, 1):
            found[number] = results[0].model_dump(exclude={"seconds"})
    alone = [tuning.perform(run, str(tmp_path / "alone"))[0] for run in good[:2]]
    assert found == {n: each.model_dump(exclude={"seconds"}) for n, each in enumerate(alone)}
