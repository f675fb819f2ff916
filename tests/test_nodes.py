"""Two machines, simulated: a node that is killed does not show; neither does a second command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from corpus_helpers import Built, hold, run, start, wait_for_held
from ray_helpers import small_nodes

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the nodes' workers wait in `encode`, before the second record of it."""
    directory = tmp_path / "held"
    for name, value in hold(directory, {"encode": 1}).items():
        monkeypatch.setenv(name, value)
    return directory


@pytest.fixture
def nodes(held: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a head that runs no tasks and two nodes of one core; on loopback."""
    with small_nodes(monkeypatch) as cluster:
        yield cluster


def test_a_killed_node_does_not_show(
    built: Built,
    nodes: Any,  # noqa: ANN401 - Ray's cluster
    held: Path,
    tmp_path: Path,
) -> None:
    driver = start(
        "pipeline", "refresh", str(built.recipe), f"store={tmp_path}/store", "--json",
        extra={"RAY_ADDRESS": nodes.address},
    )  # fmt: skip
    worker = psutil.Process(wait_for_held(driver, held, "encode"))
    above = {process.pid for process in worker.parents()}
    (doomed,) = [
        node
        for node in nodes.worker_nodes
        if above & {info.process.pid for info in node.all_processes["raylet"]}
    ]
    nodes.remove_node(doomed, allow_graceful=False)
    out, err = driver.communicate(timeout=900)
    assert driver.returncode == 0, err
    assert json.loads(out.splitlines()[-1]) == built.summary
    assert not worker.is_running()


def test_of_two_commands_the_second_says_who_is_first(built: Built, tmp_path: Path) -> None:
    directory = tmp_path / "held"
    store = f"store={tmp_path}/store"
    first = start(
        "pipeline", "refresh", str(built.recipe), store, "workers=1", "--json",
        extra=hold(directory, {"clean": 1}),
    )  # fmt: skip
    worker = psutil.Process(wait_for_held(first, directory, "clean"))
    second = run("pipeline", "refresh", str(built.recipe), store, "workers=1")
    assert second.returncode == 2
    assert "is held by refresh of first (process " in second.stderr
    assert "wait until it ends" in second.stderr
    worker.kill()
    out, err = first.communicate(timeout=900)
    assert first.returncode == 0, err
    assert json.loads(out.splitlines()[-1]) == built.summary
