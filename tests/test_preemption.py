"""Who is told to end writes a checkpoint first, of the very step it is at."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pretrain_helpers import (
    column,
    make_recipe,
    start_training,
    wait_for_steps,
)

from pretrain.checkpoints import newest_checkpoint
from pretrain.launch import run_training
from pretrain.metrics import read_metrics
from pretrain.preemption import Notice, PreemptedError, listening
from pretrain.world import World

ALONE = World(0, 1, torch.device("cpu"))


def test_sigterm_is_heard_while_listening_only() -> None:
    before = signal.getsignal(signal.SIGTERM)
    notice = Notice()
    with listening():
        assert not notice.arrives(ALONE)
        os.kill(os.getpid(), signal.SIGTERM)
        assert notice.arrives(ALONE)
    assert signal.getsignal(signal.SIGTERM) is before
    assert not Notice().arrives(ALONE)


def test_sigterm_is_passed_on() -> None:
    heard: list[str] = []
    with listening(lambda: heard.append("told")):
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == ["told"]


def test_another_thread_cannot_listen_and_need_not() -> None:
    before, entered = signal.getsignal(signal.SIGTERM), []

    def listen() -> None:
        with listening():
            entered.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert entered == [True]


def terminate_after(run: Path, steps: int) -> None:
    while len(read_metrics(str(run))) < steps:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_that_is_told_to_end_goes_on_from_that_step(store: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    settings: dict[str, Any] = {
        "max_steps": 400,
        "checkpoint_every_steps": 400,
        "validate_every_steps": 400,
    }
    teller = threading.Thread(target=terminate_after, args=(run, 3))
    teller.start()
    with pytest.raises(PreemptedError, match=r"told to end after \d+ steps: their checkpoint is"):
        run_training(make_recipe(store, run, **settings))
    teller.join()
    found = newest_checkpoint(str(run))
    assert found is not None
    assert 3 <= found[1].step == len(read_metrics(str(run))) < 400
    more = settings | {"max_steps": found[1].step + 2}
    run_training(make_recipe(store, run, **more))
    run_training(make_recipe(store, whole, **more))
    assert column(run, "batch_hash") == column(whole, "batch_hash")


@pytest.mark.slow
def test_all_ranks_end_at_the_same_step(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = make_recipe(store, run, processes=2, max_steps=100_000, zero_stage=3)
    process = start_training(recipe, tmp_path / "recipe.yaml")
    wait_for_steps(process, run, 3)
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 143, message
    assert "told to end after" in message.splitlines()[-1]
    found = newest_checkpoint(str(run))
    assert found is not None
    assert found[1].step == len(read_metrics(str(run)))
