"""Ranks start together, stay on loopback and end together."""

import base64
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest
from pretrain_helpers import (
    REPOSITORY,
    check_same_steps,
    free_ports,
    make_recipe,
    start_training,
    wait_for_steps,
    write_recipe,
    write_snapshot,
)

from corpus.snapshots import withdraw
from pretrain import launch
from pretrain.__main__ import main
from pretrain.checkpoints import newest_checkpoint
from pretrain.launch import RankFailedError, run_training
from pretrain.metrics import read_metrics
from pretrain.preemption import PreemptedError
from pretrain.train import RunInUseError
from pretrain.writer import CheckpointFailedError


def rank_processes(parent: int) -> list[psutil.Process]:
    children = psutil.Process(parent).children()
    return [child for child in children if "--multiprocessing-fork" in child.cmdline()]


# Takes and gives back 64 MB four times; how many pages the system had to fill for the last three.
FAULTS = """
import resource, sys
import numpy as np
from pretrain import launch
if sys.argv[1] == "kept":
    launch.keep_freed_memory()
if sys.argv[1] == "joined":
    launch.join(0, 1, 0)
def touch():
    np.empty(2**26, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = touch()
touch(), touch()
print(touch() - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_a_step_takes_the_memory_that_the_last_one_freed() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how], cwd=REPOSITORY))
        for how in ("kept", "freed", "joined")
    }
    pages = 2**26 // os.sysconf("SC_PAGE_SIZE")
    assert faults["kept"] < pages / 100
    # Huge pages, where the system gives them, are fewer; but each is filled anew.
    assert faults["freed"] > 3 * faults["kept"]
    # A process that only calls us is not ours to set.
    assert faults["joined"] > 3 * faults["kept"]


# What is called first at exit is registered last; so this comes after the group is left.
THREADS = """
import atexit, os, signal, sys, time
from contextlib import suppress
from pathlib import Path
from threading import Thread
def name_of(thread):
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended since it was listed
        return (thread / "comm").read_text()
    return ""
def show(when):
    names = map(name_of, Path("/proc/self/task").iterdir())
    print(when, sum("gloo" in name for name in names))
atexit.register(show, "after")
from corpus.recipe import load_recipe
from pretrain.launch import run_training
from pretrain.preemption import PreemptedError
recipe = load_recipe(sys.argv[1], [])
def preempt():
    while not Path(recipe.pretrain.run, "metrics.jsonl").exists():
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
if recipe.pretrain.max_steps > 3:
    Thread(target=preempt).start()
with suppress(PreemptedError):
    run_training(recipe)
show("before")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("steps", [3, 100_000])  # complete, and preempted
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_the_threads_of_the_group_end_before_python_does(
    store: Path, tmp_path: Path, stage: int, steps: int
) -> None:
    """One that still releases tensors while Python ends would end the process by SIGABRT."""
    recipe = make_recipe(store, tmp_path / "run", max_steps=steps, zero_stage=stage)
    path = write_recipe(recipe, tmp_path / "recipe.yaml")
    command = [sys.executable, "-c", THREADS, str(path)]
    lines = subprocess.check_output(command, cwd=REPOSITORY, text=True).splitlines()
    before, after = (line.split() for line in lines[-2:])
    assert before[0] == "before"
    assert int(before[1]) > 0
    assert after == ["after", "0"]


# Rank 0 fails while its group waits for rank 1, which never comes.
FAILING = """
import sys
from contextlib import suppress
from pathlib import Path
import torch
from torch import distributed
from pretrain import launch
rank = int(sys.argv[1])
launch.join(rank, 2, rank, Path(sys.argv[2]))
distributed.barrier()
if rank:
    sys.stdin.read()
with launch.failing_at_once():
    distributed.all_reduce(torch.ones(9), async_op=True)
    {failure}
"""


@pytest.mark.parametrize(("failure", "status"), [("sys.exit(2)", 2), ("raise OSError('full')", 1)])
def test_a_rank_that_fails_waits_for_nobody(tmp_path: Path, failure: str, status: int) -> None:
    script = FAILING.format(failure=failure)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(tmp_path / "meeting")],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (1, 0)
    ]  # fmt: skip
    try:
        _, said = ranks[1].communicate(timeout=300)
        assert ranks[0].poll() is None
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert ranks[1].returncode == status
    assert ("OSError: full" in said) == (status == 1)


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
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 1
    assert re.search("error: rank [01] ended with signal 9; the other ranks were ended", message)
    assert psutil.wait_procs(ranks, timeout=60)[1] == []


@pytest.mark.slow
def test_a_mistake_that_a_rank_finds_is_one_line(store: Path, tmp_path: Path) -> None:
    # A rate at which the weights leave the range of fp32.
    recipe = make_recipe(
        store, tmp_path / "run", processes=2, learning_rate=1e25, warmup_steps=0, max_steps=20
    )
    process = start_training(recipe, tmp_path / "recipe.yaml")
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 2
    assert "training stopped" in message
    assert "Traceback" not in message


def interrupt(
    *processes: "subprocess.Popen[str] | psutil.Process", number: signal.Signals = signal.SIGINT
) -> None:
    """Signal a driver and its ranks, which it may have ended by the time that they are told."""
    for one in processes:
        with suppress(psutil.NoSuchProcess):
            one.send_signal(number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "told")],
)
def test_ranks_that_are_only_starting_end_with_one_line(
    store: Path, tmp_path: Path, number: signal.Signals, status: int, said: str
) -> None:
    recipe = make_recipe(store, tmp_path / "run", processes=2, max_steps=100_000)
    process = start_training(recipe, tmp_path / "recipe.yaml")
    while len(rank_processes(process.pid)) < 2:
        assert process.poll() is None, process.communicate()[1]
    ranks = rank_processes(process.pid)
    # A terminal tells all of them, who is told to end passes it on.
    interrupt(process, *(ranks if number == signal.SIGINT else ()), number=number)
    message = process.communicate(timeout=300)[1]
    assert process.returncode == status, message
    assert message.splitlines()[-1].startswith(said)
    assert "Traceback" not in message
    assert psutil.wait_procs(ranks, timeout=60)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "every_steps"), [(1, 10_000), (1, 2), (2, 2)])
def test_ctrl_c_while_training_is_one_line_that_says_what_is_kept(
    store: Path, tmp_path: Path, processes: int, every_steps: int
) -> None:
    run = tmp_path / "run"
    recipe = make_recipe(
        store, run, processes=processes, max_steps=100_000, checkpoint_every_steps=every_steps
    )
    process = start_training(recipe, tmp_path / "recipe.yaml")
    wait_for_steps(process, run, 6)  # the second checkpoint waited for the first
    ranks = rank_processes(process.pid)
    interrupt(process, *ranks)
    message = process.communicate(timeout=300)[1]
    assert process.returncode == 130, message
    newest = newest_checkpoint(str(run))
    assert (newest is None) == (every_steps > 6)
    kept = "no checkpoint was written yet, the same command begins anew"
    if newest:
        kept = f"the same command goes on from step {newest[1].step:,}"
    assert message.splitlines()[-1] == f"interrupted: {kept}"
    assert "Traceback" not in message
    assert psutil.wait_procs(ranks, timeout=60)[1] == []


def test_a_rank_that_was_being_started_hears_of_the_end_too(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = SpawnProcess.start

    def start(process: SpawnProcess) -> None:
        begin(process)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(SpawnProcess, "start", start)
    with pytest.raises(PreemptedError, match="told to end while rank 0 was starting: no step is"):
        launch._run_processes(make_recipe(store, tmp_path / "run"))


@pytest.mark.slow
def test_torchrun_trains_the_same(store: Path, tmp_path: Path) -> None:
    alone, two = tmp_path / "alone", tmp_path / "two"
    run_training(make_recipe(store, alone))
    recipe = write_recipe(make_recipe(store, two), tmp_path / "recipe.yaml")
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
            "--master-addr=127.0.0.1", f"--master-port={free_ports(1)[0]}",
            "-m", "pretrain", "train", str(recipe),
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
            "--master_addr=127.0.0.1", f"--master_port={free_ports(1)[0]}",
            "--module", "pretrain", "train", str(recipe),
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
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert listening
    assert listening <= {"127.0.0.1", "::1"}
    check_same_steps(two, alone)


LAUNCHED = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}  # fmt: skip
# A process joins once, so each environment has one of its own.
LONE = """
import sys
from pretrain.__main__ import main
from pretrain.checkpoints import newest_checkpoint
assert main(["plan", sys.argv[1], "--ranks=1", "--seconds=1"]) == 0
sys.exit(main(["train", sys.argv[1]]))
"""


@pytest.mark.parametrize("names", [("MASTER_ADDR",), ("MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK")])
def test_the_address_of_a_master_alone_is_no_launcher(
    store: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    recipe = write_recipe(
        make_recipe(store, tmp_path / "run", max_steps=2), tmp_path / "recipe.yaml"
    )
    given = LAUNCHED | {"MASTER_ADDR": "10.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", LONE, str(recipe)],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
        env=os.environ | {name: given[name] for name in names},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(read_metrics(str(tmp_path / "run"))) == 2


@pytest.mark.parametrize("missing", [("LOCAL_RANK",), ("RANK",), ("MASTER_ADDR", "MASTER_PORT")])
def test_what_a_launcher_did_not_say_is_named(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: tuple[str, ...],
) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    for name in missing:
        monkeypatch.delenv(name)
    recipe = str(write_recipe(make_recipe(store, tmp_path / "run"), tmp_path / "recipe.yaml"))
    assert main(["train", recipe]) == 2
    message = f"error: the environment has no {', '.join(missing)}, which a launcher gives"
    assert capsys.readouterr().err.splitlines()[-1].startswith(message)


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
    assert "is complete: it has 2 steps" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == files
    run_training(make_recipe(store, tmp_path / "run", max_steps=1, warmup_steps=0))
    assert "is complete: it has 2 steps, and the recipe asks for 1" in caplog.text


def test_a_complete_run_of_something_else_is_refused_as_if_it_went_on(tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    write_snapshot(store, "one")
    write_snapshot(store, "two")
    run_training(make_recipe(store, run, max_steps=2))
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    other = r"step-00000002 was trained on snapshot one \(.*, the recipe names two"
    for steps in (2, 4):  # complete, and not yet
        with pytest.raises(ValueError, match=other):
            run_training(make_recipe(store, run, "two", max_steps=steps))
        with pytest.raises(ValueError, match=r"data plan mask_prob 0\.15, the recipe gives 0\.2"):
            run_training(make_recipe(store, run, max_steps=steps, mask_prob=0.2))
    with pytest.raises(ValueError, match="model layers 2, the recipe gives 4"):
        run_training(make_recipe(store, run, max_steps=2, preset="small"))
    withdraw(str(store), "one", "two")
    with pytest.raises(ValueError, match=r"snapshot one was withdrawn.* successor two"):
        run_training(make_recipe(store, run, max_steps=2))
    kept = [path for path in files if path.is_file() and path.name != "lock"]
    assert kept
    assert all(path.stat().st_mtime_ns == files[path] for path in kept)


def test_keys_stand_before_or_after_options(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_recipe(make_recipe(store, tmp_path / "run"), tmp_path / "recipe.yaml"))
    given = ["pretrain.max_steps=5", "--without-probe", "pretrain.batch_sequences=12", "--json"]
    assert main(["plan", recipe, *given]) == 0
    plan = orjson.loads(capsys.readouterr().out)
    assert main(["plan", recipe, *sorted(given)]) == 0
    assert orjson.loads(capsys.readouterr().out) == plan
    assert main(["plan", recipe, "--json", "--without-probe"]) == 0
    assert orjson.loads(capsys.readouterr().out) != plan
    for wrong in ("max_steps", "--max-steps=5"):
        with pytest.raises(SystemExit):
            main(["plan", recipe, "--without-probe", wrong])
        assert f"unrecognized arguments: {wrong}" in capsys.readouterr().err


def test_files_that_are_in_the_way_are_named_in_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_recipe(make_recipe(store, tmp_path / "run"), tmp_path / "recipe.yaml"))
    file = tmp_path / "file"
    file.touch()
    cases = {
        (f"pretrain.run={file}",): (2, f"pretrain.run is {file}, a file: give a directory"),
        (f"pretrain.run={file}/below",): (2, f"{file}/below, below the file {file}: give a"),
        (f"pretrain.run={file}/below", "pretrain.processes=2"): (2, f"below the file {file}: give"),
        # A rank of several finds it, and says whether it is a mistake of the user's.
        ("pretrain.init_from=none", "pretrain.processes=2"): (2, "which holds no model"),
    }
    for overrides, (status, message) in cases.items():
        assert main(["train", recipe, *overrides]) == status
        shown = capsys.readouterr().err.strip().splitlines()[-1]
        assert shown.startswith("error: ")
        assert message in shown


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            OSError(28, "No space left on device", "/scratch/run"),
            RankFailedError("[Errno 28] No space left on device: '/scratch/run'"),
        ),
        (CheckpointFailedError("of step 2: full"), RankFailedError("of step 2: full")),
        (RunInUseError("another process"), ValueError("another process")),
    ],
)
def test_what_ends_a_rank_is_passed_on_with_its_kind(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    shown: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(launch, "join", fail)
    monkeypatch.setattr(launch, "_end_with_parent", lambda: None)
    report, sender = multiprocessing.Pipe(duplex=False)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit):
            launch._run_rank(make_recipe(store, tmp_path), 0, tmp_path / "meeting", sender)
    finally:
        signal.signal(signal.SIGINT, before)
    assert report.poll()
    found = launch._failure(0, multiprocessing.Process(), report)
    assert (type(found), str(found)) == (type(shown), str(shown))


def test_the_command_line_shows_mistakes_in_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_recipe(make_recipe(store, tmp_path / "run"), tmp_path / "recipe.yaml"))
    cases = {
        ("train", str(tmp_path / "none.yaml")): "there is no recipe at",
        ("train", recipe, "pretrain.seeed=1"): "did you mean",
        ("plan", recipe, "--price", "-3"): "--price is -3, expected 0 or more",
        ("plan", recipe, "--seconds", "-1"): "--seconds is -1, expected more than 0",
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
