"""Training on a GPU follows training on a CPU: `pytest -m gpu`, on a machine that has one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_helpers import column, make_recipe, stop_after_checkpoint

from benchmarks.curves import BATCH, plain_losses
from pretrain.launch import run_training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore"),  # torch's compiler warns within itself
]

SETTINGS: dict[str, Any] = {"batch_sequences": BATCH, "microbatch_sequences": 4, "max_steps": 12}


@pytest.mark.parametrize(
    "settings",
    [
        {"zero_stage": 0, "precision": "fp32"},
        {"zero_stage": 1},
        {"zero_stage": 2},
        {"zero_stage": 3},
        {"zero_stage": 1, "isolate_documents": True},  # the variable-length kernel, both ways
        {"zero_stage": 1, "isolate_documents": True, "recompute_activations": True},
        {"zero_stage": 1, "compile": True},
        {"zero_stage": 1, "compile": True, "isolate_documents": True},
    ],
)
def test_losses_are_near_those_of_a_plain_loop_on_a_cpu(
    store: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    given = SETTINGS | {"precision": "bf16"} | settings
    run_training(make_recipe(store, tmp_path / "run", **given))
    expected = plain_losses(make_recipe(store, tmp_path / "none", **SETTINGS))
    pairs = zip(column(tmp_path / "run", "loss"), expected, strict=True)
    assert max(abs(found - wanted) for found, wanted in pairs) < 0.03


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_goes_on_from_its_checkpoint(
    store: Path, tmp_path: Path, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near, not equal: the backward pass of attention adds in any order there."""
    settings = SETTINGS | {"precision": "bf16", "zero_stage": stage, "checkpoint_every_steps": 6}
    run_training(make_recipe(store, tmp_path / "whole", **settings))
    recipe = make_recipe(store, tmp_path / "cut", **settings)
    stop_after_checkpoint(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_training(recipe)
    monkeypatch.undo()
    run_training(recipe)
    pairs = zip(column(tmp_path / "cut", "loss"), column(tmp_path / "whole", "loss"), strict=True)
    assert max(abs(found - wanted) for found, wanted in pairs) < 0.01
