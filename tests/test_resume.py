"""A run that goes on says what its recipe changed, and does not begin anew unseen."""

import logging
from pathlib import Path
from typing import Any

import orjson
import pytest
from pretrain_helpers import make_recipe

from pretrain.checkpoints import CHANGES, newest_checkpoint, read_carried
from pretrain.launch import run_training
from pretrain.metrics import read_metrics


def changes(run: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (run / CHANGES).read_bytes().splitlines()]


def test_what_the_recipe_changes_is_told_and_kept(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    run_training(make_recipe(store, run, max_steps=2))
    assert not (run / CHANGES).exists()
    more: dict[str, Any] = {"max_steps": 4, "learning_rate": 0.5, "keep_checkpoints": 9}
    run_training(make_recipe(store, run, **more))
    told = next(line for line in caplog.messages if line.startswith("going on from step 2"))
    assert "max_steps 2 -> 4" in told
    assert "learning_rate " in told
    assert "keep_checkpoints" not in told
    assert any("the learning rate was" in line and "is" in line for line in caplog.messages)
    (line,) = changes(run)
    assert line["step"] == 2
    assert line["changes"]["max_steps"] == [2, 4]
    newest = newest_checkpoint(str(run))
    assert newest is not None
    assert read_carried(*newest, CHANGES) == (run / CHANGES).read_bytes()
    # What lies in the directory is made up from the checkpoint that is gone on from.
    (run / CHANGES).unlink()
    caplog.clear()
    run_training(make_recipe(store, run, **more | {"max_steps": 5}))
    assert "going on from step 4 with max_steps 4 -> 5" in caplog.messages
    assert [line["step"] for line in changes(run)] == [2, 4]


def test_another_optimizer_is_refused(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_training(make_recipe(store, run, max_steps=2))
    recipe = make_recipe(store, run, max_steps=4, optimizer="lamb", zero_stage=0)
    with pytest.raises(ValueError, match="trained with optimizer adamw, the recipe gives lamb"):
        run_training(recipe)
    assert len(read_metrics(str(run))) == 2


def test_another_root_does_not_begin_the_run_anew(store: Path, tmp_path: Path) -> None:
    run, root = tmp_path / "run", str(tmp_path / "root")
    run_training(make_recipe(store, run, max_steps=2))
    with pytest.raises(ValueError, match=f"{run} goes on from .*step-00000002, and {root} holds"):
        run_training(make_recipe(store, run, max_steps=4, checkpoint_root=root))
    assert len(read_metrics(str(run))) == 2
    (run / "checkpoints").rename(tmp_path / "checkpoints")
    (tmp_path / "root").mkdir(exist_ok=True)
    (tmp_path / "checkpoints").rename(tmp_path / "root" / "checkpoints")
    run_training(make_recipe(store, run, max_steps=4, checkpoint_root=root))
    with pytest.raises(ValueError, match=rf"goes on from {root}/checkpoints/step-00000004"):
        run_training(make_recipe(store, run, max_steps=6))
    assert len(read_metrics(str(run))) == 4
