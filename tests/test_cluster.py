"""Training on Ray: the same batches as in one process, whatever happens to the machines."""

import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from pretrain_helpers import (
    REPOSITORY,
    SHARDS,
    check_same_steps,
    column,
    make_recipe,
    write_recipe,
    write_snapshot,
)
from ray_helpers import NODE, small_nodes

from benchmarks.curves import widest
from corpus.recipe import Recipe
from pretrain.box import Box
from pretrain.cache import ShardUnreadableError
from pretrain.checkpoints import checkpoint_home, newest_checkpoint
from pretrain.explain import open_recipe
from pretrain.launch import run_training
from pretrain.metrics import read_metrics
from pretrain.preemption import EXIT_STATUS, PreemptedError
from pretrain.world import World

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

ALONE = World(0, 1, torch.device("cpu"))
PATIENCE_SECONDS = 600.0
# Enough steps that a run is still at it when something happens to it.
LONG: dict[str, Any] = {"max_steps": 150, "checkpoint_every_steps": 20, "validate_every_steps": 150}


@pytest.fixture(scope="module")
def uninterrupted(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted")
    run_training(make_recipe(store, run, **LONG))
    return run


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a head that runs no ranks and two nodes of one core; on loopback."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
    with small_nodes(monkeypatch) as cluster:
        yield cluster


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a head that runs no ranks and one node of one core; on loopback."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    with small_nodes(monkeypatch, 1) as cluster:
        yield cluster


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a driver; one that still runs at the end of the test is ended, with its Ray."""
    started: list[subprocess.Popen[str]] = []

    def begin(recipe: Path, address: str | None = None) -> "subprocess.Popen[str]":
        started.append(start_driver(recipe, address))
        return started[-1]

    yield begin
    for driver in started:
        below = psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else []
        driver.terminate()
        driver.wait(60)
        assert driver.stdout is not None
        driver.stdout.close()
        for process in psutil.wait_procs(below, timeout=20)[1]:
            process.kill()


def start_driver(recipe: Path, address: str | None) -> "subprocess.Popen[str]":
    extra = {"RAY_ADDRESS": address} if address else {}
    return subprocess.Popen(
        [sys.executable, "-m", "pretrain", "train", str(recipe)],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"} | extra,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for_steps(driver: "subprocess.Popen[str]", run: Path, steps: int) -> None:
    """Wait until a run has recorded that many steps; Ray starts a dozen processes first."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(read_metrics(str(run))) < steps:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline, f"no {steps} steps in {run}"
        time.sleep(0.1)


def finish(driver: "subprocess.Popen[str]") -> str:
    out = driver.communicate(timeout=PATIENCE_SECONDS)[0]
    assert driver.returncode == 0, out
    return out


def group_sizes(out: str) -> list[int]:
    return [int(size) for size in re.findall(r"training begins on (\d+) ranks", out)]


def test_ray_on_this_machine_stays_on_loopback(store: Path, start: Start, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = make_recipe(store, run, ray_workers=2, max_steps=40, validate_every_steps=40)
    driver = start(write_recipe(recipe, tmp_path / "recipe.yaml"))
    wait_for_steps(driver, run, 2)
    listening = [
        (connection.laddr.ip, process.name())
        for process in psutil.Process(driver.pid).children(recursive=True)
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert any("RayTrainWorker" in name for _, name in listening), listening
    assert {address for address, _ in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    out = finish(driver)
    assert group_sizes(out) == [2]
    assert "State API" not in out  # which a Ray of our own does without
    alone = tmp_path / "alone"
    run_training(make_recipe(store, alone, max_steps=40, validate_every_steps=40))
    check_same_steps(run, alone)


def test_a_mistake_is_one_line_and_not_tried_again(start: Start, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_snapshot(store, shards=SHARDS[3:])
    recipe = make_recipe(store, tmp_path / "run", ray_workers=1)
    driver = start(write_recipe(recipe, tmp_path / "recipe.yaml"))
    out = driver.communicate(timeout=PATIENCE_SECONDS)[0]
    assert driver.returncode == 2, out
    assert "error: " in out.splitlines()[-1]
    assert "has no training sequences" in out.splitlines()[-1]
    assert group_sizes(out) == [1]


def test_what_is_waited_for_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = importlib.import_module("pretrain.cluster")
    recipe = make_recipe(tmp_path, tmp_path, ray_workers=(4, 8), ray_worker_cpus=3)
    assert (
        "wants 4 ranks at least, each with 3 CPU on one machine, and the cluster has 2 of 8 "
        in (cluster.wanted_room(recipe, {"CPU": 8.0}, {"CPU": 2.0}))
    )
    room = cluster.wanted_room(recipe, {"CPU": 8.0, "GPU": 4.0}, {"GPU": 2.0})
    assert "each with 3 CPU and 1 GPU on one machine" in room
    assert "0 of 8 CPU free, 2 of 4 GPU free" in room
    begun = iter([False, True])
    fake = SimpleNamespace(
        get=lambda answer: answer,
        cluster_resources=lambda: {"CPU": 2.0},
        available_resources=lambda: {"CPU": 2.0},
    )
    box = SimpleNamespace(has_begun=SimpleNamespace(remote=lambda: next(begun)))
    monkeypatch.setattr(cluster, "ray", fake)
    monkeypatch.setattr(cluster, "_SILENCE_SECONDS", 0.0)
    for _ in range(2):
        with cluster._telling_of_room(box, recipe):
            for thread in threading.enumerate():
                if thread.name == "room":
                    thread.join()
    assert len(caplog.messages) == 1
    monkeypatch.setattr(cluster, "_SILENCE_SECONDS", 60.0)
    with cluster._telling_of_room(box, recipe):
        pass  # ended before: nothing is asked
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("error", "kept"),
    [(ValueError("seed 7"), ["seed 7"]), (ShardUnreadableError("503"), []), (OSError("reset"), [])],
)
def test_only_mistakes_end_all_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, kept: list[str]
) -> None:
    cluster, box = importlib.import_module("pretrain.cluster"), list[str]()

    def fail(*_: Any) -> None:  # noqa: ANN401
        raise error

    monkeypatch.setattr(cluster, "ray", SimpleNamespace(get=lambda answer: answer))
    monkeypatch.setattr(cluster, "_join", lambda: ALONE)
    monkeypatch.setattr(cluster, "train", fail)
    actor = SimpleNamespace(
        begin=SimpleNamespace(remote=lambda: True), put=SimpleNamespace(remote=box.append)
    )
    recipe = make_recipe(tmp_path, tmp_path).model_dump(mode="json")
    with pytest.raises(type(error)):
        cluster.be_rank({"box": actor, "recipe": recipe})
    assert box == kept


def local_box(monkeypatch: pytest.MonkeyPatch, cluster: Any) -> Any:  # noqa: ANN401 - both
    """Make a box in this process that is called as an actor is."""
    box = Box()
    monkeypatch.setattr(cluster.ray, "get", lambda answer: answer)
    calls = ("want", "is_wanted", "grant", "is_ending", "end", "has_begun", "begin", "leave")
    return SimpleNamespace(**{name: SimpleNamespace(remote=getattr(box, name)) for name in calls})


def test_the_recipe_is_left_where_the_command_was_given(tmp_path: Path) -> None:
    cluster = importlib.import_module("pretrain.cluster")
    recipe = make_recipe(tmp_path, tmp_path / "run", checkpoint_root="memory://elsewhere")
    cluster._leave_recipe(recipe)
    assert checkpoint_home(str(tmp_path / "run")) == "memory://elsewhere"
    assert open_recipe(str(tmp_path / "run")) == recipe
    longer = make_recipe(
        tmp_path, tmp_path / "run", checkpoint_root="memory://elsewhere", max_steps=99
    )
    cluster._leave_recipe(longer)
    assert open_recipe(str(tmp_path / "run")) == longer


def test_workers_get_paths_that_do_not_depend_on_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster = importlib.import_module("pretrain.cluster")
    cache = {"directory": "cache", "max_bytes": 1}
    recipe = make_recipe(Path("store"), Path("run"), cache=cache, checkpoint_root="s3://a/b")
    found = cluster._absolute(recipe)
    paths = (found.store, found.pretrain.run, found.pretrain.cache.directory)
    assert paths == tuple(str(tmp_path / name) for name in ("store", "run", "cache"))
    assert found.pretrain.checkpoint_root == "s3://a/b"


def test_ray_is_asked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, answers = importlib.import_module("pretrain.cluster"), iter([None, "notice", "notice"])
    monkeypatch.setattr(cluster.ray_train, "get_preemption_info", lambda: next(answers))
    monkeypatch.setattr(cluster, "_ASK_AFTER_SECONDS", 1e9)
    notice = cluster.RayNotice(ALONE, local_box(monkeypatch, cluster))
    assert [notice.arrives(ALONE) for _ in range(3)] == [False, False, False]
    monkeypatch.setattr(cluster, "_ASK_AFTER_SECONDS", 0.0)
    assert [notice.arrives(ALONE) for _ in range(2)] == [True, False]


def test_a_wanted_checkpoint_is_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = importlib.import_module("pretrain.cluster")
    monkeypatch.setattr(cluster.ray_train, "get_preemption_info", lambda: None)
    monkeypatch.setattr(cluster, "_ASK_AFTER_SECONDS", 0.0)
    box = local_box(monkeypatch, cluster)
    notice = cluster.RayNotice(ALONE, box)
    assert not notice.arrives(ALONE)
    for _ in range(2):
        box.want.remote()
        assert notice.arrives(ALONE)
        notice.answer(7)
        assert not notice.arrives(ALONE)


def test_who_is_told_to_end_saves_and_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = importlib.import_module("pretrain.cluster")
    monkeypatch.setattr(cluster.ray_train, "get_preemption_info", lambda: None)
    box = local_box(monkeypatch, cluster)
    with pytest.raises(PreemptedError, match="told to end before any rank began"):
        cluster._end(box)
    notice = cluster.RayNotice(ALONE, box)
    assert notice.arrives(ALONE)
    with pytest.raises(PreemptedError, match="told to end after 7 steps"):
        notice.answer(7)
    # Ray may start ranks again before it is gone; they have nothing to do.
    monkeypatch.setattr(cluster, "train", pytest.fail)
    recipe = make_recipe(tmp_path, tmp_path).model_dump(mode="json")
    cluster.be_rank({"box": box, "recipe": recipe})
    cluster._end(box)


def test_the_number_of_ranks_changes_after_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is asked and fails is not waited for; what is decided is decided anew."""
    cluster = importlib.import_module("pretrain.cluster")
    box = local_box(monkeypatch, cluster)
    scaling = cluster.ray_train.ScalingConfig(
        num_workers=(1, 3), resources_per_worker={"CPU": 1}, elastic_resize_monitor_interval_s=60
    )
    policy, room = cluster._SavingPolicy(scaling, box), {"node": {"CPU": 1.0}}
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: room)

    def decide(began: float) -> int | None:
        group = SimpleNamespace(start_time=began, num_workers=1)
        decision = policy.make_decision_for_running_worker_group(group, None)
        policy._latest_monitor_time -= 100
        return getattr(decision, "num_workers", None)

    long_ago = time.monotonic() - 1000
    assert decide(long_ago) is None
    assert not box.is_wanted.remote()
    room["node"] = {"CPU": 2.0}
    assert [decide(long_ago) for _ in range(3)] == [None] * 3
    assert box.is_wanted.remote()
    room["node"] = {"CPU": 3.0}
    box.grant.remote()
    assert decide(long_ago) == 3
    assert decide(long_ago + 1) is None  # another group, asked
    assert box.is_wanted.remote()
    assert decide(long_ago + 2) is None  # another that took its place
    box.grant.remote()
    room["node"] = {"CPU": 1.0}
    assert decide(long_ago + 2) is None
    assert not box.is_wanted.remote()


def test_a_notice_is_answered_by_a_checkpoint(
    store: Path,
    uninterrupted: Path,
    nodes: Any,  # noqa: ANN401 - Ray's cluster
    start: Start,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    only_at_the_end = LONG | {"checkpoint_every_steps": 150}
    recipe = make_recipe(store, run, ray_workers=(1, 2), **only_at_the_end)
    driver = start(write_recipe(recipe, tmp_path / "recipe.yaml"), nodes.address)
    wait_for_steps(driver, run, 5)
    doomed = nodes.worker_nodes.copy().pop()
    drain(nodes.address, doomed.node_id)
    deadline = time.monotonic() + 60
    while not list(run.glob("checkpoints/*/state.json")):
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    steps = len(read_metrics(str(run)))
    nodes.remove_node(doomed, allow_graceful=False)
    assert steps < 150
    out = finish(driver)
    assert group_sizes(out)[-1] == 1
    saved = [int(step) for step in re.findall(r"checkpoint of step (\d+) is being", out)]
    assert 5 <= saved[0] <= steps
    assert saved[-1] == 150
    assert column(run, "batch_hash") == column(uninterrupted, "batch_hash")


def test_ranks_follow_a_node_that_comes_and_goes(
    store: Path,
    node: Any,  # noqa: ANN401 - Ray's cluster
    start: Start,
    tmp_path: Path,
) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    settings: dict[str, Any] = {"max_steps": 100_000, "validate_every_steps": 100_000}
    settings["checkpoint_every_steps"] = 100_000
    recipe = make_recipe(
        store, run, ray_workers=(1, 2), ray_grow_after_seconds=1, zero_stage=2, **settings
    )
    driver = start(write_recipe(recipe, tmp_path / "recipe.yaml"), node.address)
    said = listen_to(driver)
    wait_until_said(driver, said, "begins on 1 ranks")
    wait_for_steps(driver, run, 5)
    second = node.add_node(num_cpus=1, **NODE)
    wait_until_said(driver, said, "is written.*begins on 2 ranks")
    (grown,) = map(int, re.findall(r"checkpoint of step (\d+) is written", joined(said)))
    assert grown >= 5  # which none but the growing asked for
    wait_for_steps(driver, run, grown + 5)
    node.remove_node(second, allow_graceful=False)
    wait_until_said(driver, said, "begins on 2 ranks.*begins on 1 ranks")
    wait_for_steps(driver, run, grown + 10)
    driver.terminate()
    assert driver.wait(PATIENCE_SECONDS) == EXIT_STATUS, joined(said)
    lines = read_metrics(str(run))
    assert len(lines) > grown
    assert f"told to end after {len(lines)} steps: their checkpoint is" in joined(said)
    newest = newest_checkpoint(str(run))
    assert newest is not None
    assert newest[1].step == len(lines)
    recipe = make_recipe(store, alone, **settings)
    run_until(recipe, alone, len(lines))
    others = read_metrics(str(alone))[: len(lines)]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert [line["batch_hash"] for line in lines] == [line["batch_hash"] for line in others]
    assert widest([line["loss"] for line in lines], [line["loss"] for line in others]) < 1e-5


def listen_to(driver: "subprocess.Popen[str]") -> list[str]:
    """Collect the lines that a driver prints, as it prints them."""
    said: list[str] = []

    def collect() -> None:
        assert driver.stdout is not None
        for line in driver.stdout:
            said.append(line)

    threading.Thread(target=collect, daemon=True).start()
    return said


def joined(said: list[str]) -> str:
    return "".join(said).replace(",", "")


def wait_until_said(driver: "subprocess.Popen[str]", said: list[str], pattern: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not re.search(pattern, joined(said), re.S):
        assert driver.poll() is None, joined(said)
        assert time.monotonic() < deadline, joined(said)
        time.sleep(0.2)


def run_until(recipe: Recipe, run: Path, steps: int) -> None:
    """Train in this process until so many steps are recorded, and end as at SIGTERM."""

    def end() -> None:
        while len(read_metrics(str(run))) < steps:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    ender = threading.Thread(target=end)
    ender.start()
    with pytest.raises(PreemptedError):
        run_training(recipe)
    ender.join()


def drain(address: str, node: str) -> None:
    """Tell Ray that a node will be taken away in a minute."""
    subprocess.run(
        [
            str(Path(sys.executable).parent / "ray"), "drain-node", f"--address={address}",
            f"--node-id={node}", "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=taken away", "--deadline-remaining-seconds=60",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
