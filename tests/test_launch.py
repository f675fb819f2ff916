"""Ranks start together, stay on loopback and end together."""

import base64
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from pretrain_helpers import (
    REPOSITORY,
    check_same_steps,
    make_recipe,
    start_training,
    wait_for_steps,
    write_recipe,
)

from pretrain.__main__ import main
from pretrain.launch import run_training


def rank_processes(parent: int) -> list[psutil.Process]:
    children = psutil.Process(parent).children()
    return [child for child in children if "--multiprocessing-fork" in child.cmdline()]


@pytest.mark.slow
def test_listeners_are_on_loopback_and_a_dying_rank_ends_all(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = make_recipe(store, run, processes=2, max_steps=100_000)
    process = start_training(recipe, tmp_path / "recipe.yaml")
    wait_for_steps(process, run, 2)
    ranks = rank_processes(process.pid)
    assert len(ranks) == 2
    listening = [
        connection.laddr.ip
        for one in (psutil.Process(process.pid), *ranks)
        for connection in one.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert set(listening) <= {"127.0.0.1", "::1"}

    ranks[0].send_signal(signal.SIGKILL)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert re.search("error: rank [01] ended with signal 9; the other ranks were ended", message)
    assert psutil.wait_procs(ranks, timeout=20)[1] == []


@pytest.mark.slow
def test_a_mistake_that_a_rank_finds_is_one_line(store: Path, tmp_path: Path) -> None:
    # A rate at which the weights leave the range of fp32.
    recipe = make_recipe(
        store, tmp_path / "run", processes=2, learning_rate=1e25, warmup_steps=0, max_steps=20
    )
    process = start_training(recipe, tmp_path / "recipe.yaml")
    message = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert "training stopped" in message
    assert "Traceback" not in message


@pytest.mark.slow
def test_torchrun_trains_the_same(store: Path, tmp_path: Path) -> None:
    alone, two = tmp_path / "alone", tmp_path / "two"
    run_training(make_recipe(store, alone))
    recipe = write_recipe(make_recipe(store, two), tmp_path / "recipe.yaml")
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr",
            "127.0.0.1", "--master-port", "29511", "-m", "pretrain", "train", str(recipe),
        ],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_same_steps(two, alone)


@pytest.mark.slow
def test_the_deepspeed_launcher_trains_the_same_on_loopback(store: Path, tmp_path: Path) -> None:
    alone, two = tmp_path / "alone", tmp_path / "two"
    settings: dict[str, Any] = {
        "max_steps": 30,
        "checkpoint_every_steps": 30,
        "validate_every_steps": 30,
    }
    run_training(make_recipe(store, alone, **settings))
    recipe = write_recipe(make_recipe(store, two, **settings), tmp_path / "recipe.yaml")
    # What `deepspeed --module pretrain train RECIPE` starts on every machine.
    world = base64.urlsafe_b64encode(b'{"localhost": [0, 1]}').decode()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}",
            "--master_addr=127.0.0.1", "--master_port=29512", "--module", "pretrain", "train",
            str(recipe),
        ],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    wait_for_steps(process, two, 2)
    listening = {
        connection.laddr.ip
        for rank in psutil.Process(process.pid).children(recursive=True)
        for connection in rank.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert listening
    assert listening <= {"127.0.0.1", "::1"}
    check_same_steps(two, alone)


def test_ray_workers_are_a_number_or_a_range(store: Path, tmp_path: Path) -> None:
    for workers in (0, [2, 1], [0, 1]):
        with pytest.raises(ValueError, match=r"give a number from 1, or \[fewest, most\]"):
            make_recipe(store, tmp_path, ray_workers=workers)
    assert make_recipe(store, tmp_path, ray_workers=[1, 4]).pretrain.worker_range == (1, 4)
    assert make_recipe(store, tmp_path, ray_workers=3).pretrain.worker_range == (3, 3)


def test_a_complete_run_is_left_alone(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = make_recipe(store, tmp_path / "run", max_steps=2)
    run_training(recipe)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    caplog.set_level("INFO", logger="pretrain.launch")
    run_training(recipe)
    assert "is complete: 2 steps" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == files


def test_the_command_line_shows_mistakes_in_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_recipe(make_recipe(store, tmp_path / "run"), tmp_path / "recipe.yaml"))
    cases = {
        ("train", str(tmp_path / "none.yaml")): "there is no recipe at",
        ("train", recipe, "pretrain.seeed=1"): "did you mean",
        ("train", recipe, "snapshot=two"): "holds no complete snapshot two; its newest is one",
        ("train", recipe, f"store={tmp_path}/empty"): "holds no complete snapshot",
        ("export", str(tmp_path / "none"), str(tmp_path / "out")): "holds no complete checkpoint",
        ("explain-step", str(tmp_path / "none"), "0"): "is no training run",
    }
    for arguments, message in cases.items():
        assert main(arguments) == 2
        shown = capsys.readouterr().err.strip().splitlines()
        assert shown[-1].startswith("error: "), arguments
        assert message in shown[-1], arguments
