"""Scores of a checkpoint on tasks: the protocol's, asked for once."""

from pathlib import Path

import pytest
from tuning_helpers import write_checkpoint, write_task

from pretrain.evaluation import protocol
from pretrain.evaluation.protocol import run_protocol
from pretrain.evaluation.recipe import Grid
from pretrain.evaluation.scoring import FineTuning, fine_tuned_scores


def test_scores_are_the_winners_of_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint")
    task = write_task(tmp_path, "classification")
    grid = Grid(learning_rates=(1e-3, 1e-2), batch_sizes=(16,), epochs=2)
    tuning = FineTuning(tasks=(task,), grid=grid, seeds=(0, 1, 2))
    found = fine_tuned_scores(tuning, checkpoint, str(tmp_path / "out"))
    assert list(found) == [task.name]
    (entry,) = run_protocol(tuning.evaluation(checkpoint, str(tmp_path / "again")))
    values = [sorted(result.value for result in cell.results)[1] for cell in entry.cells]
    assert found[task.name] == max(values)
    assert 0 <= found[task.name] <= 1

    def forbidden(*_: object) -> None:
        raise AssertionError("done before")

    monkeypatch.setattr(protocol, "perform", forbidden)
    assert fine_tuned_scores(tuning, checkpoint, str(tmp_path / "out")) == found


def test_no_tasks_no_scores() -> None:
    assert fine_tuned_scores(FineTuning(), "nowhere", "nowhere") == {}


def test_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    task = write_task(tmp_path, "classification")
    with pytest.raises(ValueError, match="two tasks are called toy-classification"):
        FineTuning(tasks=(task, task))
