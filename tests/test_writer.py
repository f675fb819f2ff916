"""Checkpoints beside the steps: whole, one at a time, and never an error that nobody sees."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from test_checkpoints import IDENTITY, STATE

from corpus.files import read_bytes, write_bytes
from corpus.training import Pretrain
from pretrain import writer as writer_module
from pretrain.checkpoints import (
    list_checkpoints,
    load_training_state,
    newest_checkpoint,
    save_checkpoint,
)
from pretrain.world import World
from pretrain.writer import CheckpointFailedError, CheckpointWriter, check_shared


def names(root: Path) -> list[str]:
    return [path.rpartition("/")[2] for path in list_checkpoints(str(root))]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[CheckpointWriter]:
    made = CheckpointWriter(str(tmp_path), Pretrain(keep_checkpoints=2), {"store": "s"})
    yield made
    made._thread.shutdown()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Hold every write until the gate is opened."""
    opened = threading.Event()

    def held(*arguments: Any) -> str:  # noqa: ANN401
        assert opened.wait(30)
        return save_checkpoint(*arguments)

    monkeypatch.setattr(writer_module, "save_checkpoint", held)
    return opened


def test_a_step_goes_on_while_a_checkpoint_is_written(
    writer: CheckpointWriter, gate: threading.Event, tmp_path: Path
) -> None:
    writer.save_checkpoint(1, IDENTITY, STATE)
    assert writer.is_busy
    assert writer.news() is None
    assert names(tmp_path) == []
    gate.set()
    assert "checkpoint of step 1 is written, after " in str(writer.news(wait=True))
    assert not writer.is_busy
    assert writer.news(wait=True) is None
    assert names(tmp_path) == ["step-00000001"]
    found = newest_checkpoint(str(tmp_path))
    assert found is not None
    assert set(load_training_state(*found)) == set(STATE)


def test_at_most_one_is_under_way(
    writer: CheckpointWriter, gate: threading.Event, tmp_path: Path
) -> None:
    writer.save_checkpoint(1, IDENTITY, STATE)
    second = threading.Thread(target=writer.save_checkpoint, args=(2, IDENTITY, STATE))
    second.start()
    second.join(0.2)
    assert second.is_alive(), "the second waits for the first"
    gate.set()
    second.join(30)
    writer.wait_for_checkpoint()
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_an_error_surfaces_at_the_next_step_and_once(
    writer: CheckpointWriter, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").write_text("a file where a directory should be")
    writer.save_checkpoint(7, IDENTITY, STATE)
    assert writer._pending is not None
    writer._pending[1].exception(30)
    with pytest.raises(CheckpointFailedError, match="checkpoint of step 7 could not be written"):
        writer.news()
    assert writer.news() is None


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What the next puts into an object store end with; there are no pauses between attempts."""
    coming: list[Exception] = []
    healthy = MemoryFileSystem.put_file

    def put_file(self: MemoryFileSystem, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
        if coming:
            raise coming.pop(0)
        healthy(self, *arguments, **settings)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_file)
    monkeypatch.setattr(writer_module, "_PAUSES_SECONDS", (0.0,) * 4)
    return coming


def test_a_failed_put_of_a_checkpoint_is_tried_again(
    tmp_path: Path, fails: list[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    root = f"memory://{tmp_path.name}"
    writer = CheckpointWriter(root, Pretrain(checkpoint_root=root), {})
    fails += [OSError("503 slow down"), RuntimeError("client: reset")]
    writer.save_checkpoint(1, IDENTITY, STATE)
    writer.close()
    found = newest_checkpoint(root)
    assert found is not None
    assert set(load_training_state(*found)) == set(STATE)
    first, _ = caplog.messages
    assert first.startswith(f"a checkpoint is tried again in 0 s: {root}/checkpoints/step-0000")
    assert first.endswith("could not be written over the network: OSError: 503 slow down")


def test_puts_that_keep_failing_end_the_run(tmp_path: Path, fails: list[Exception]) -> None:
    root = f"memory://{tmp_path.name}"
    writer = CheckpointWriter(root, Pretrain(checkpoint_root=root), {})
    fails += [OSError("503 slow down")] * 5
    writer.save_checkpoint(1, IDENTITY, STATE)
    with pytest.raises(CheckpointFailedError, match=r"step 1 could not be written .*: 503 slow"):
        writer.close()
    assert fails == []


def test_the_end_waits_and_shows_an_error(
    writer: CheckpointWriter, gate: threading.Event, tmp_path: Path
) -> None:
    writer.save_checkpoint(1, IDENTITY, STATE)
    threading.Timer(0.1, gate.set).start()
    writer.close()
    assert names(tmp_path) == ["step-00000001"]


def test_who_opens_a_run_takes_it_over(writer: CheckpointWriter, tmp_path: Path) -> None:
    writer.save_checkpoint(1, IDENTITY, STATE)
    writer.wait_for_checkpoint()
    other = CheckpointWriter(str(tmp_path), Pretrain(keep_checkpoints=1), {})
    writer.save_checkpoint(2, IDENTITY, STATE)
    with pytest.raises(CheckpointFailedError, match="another process has taken over this run"):
        writer.wait_for_checkpoint()
    assert names(tmp_path) == ["step-00000001"]
    other.save_checkpoint(3, IDENTITY, STATE)
    other.close()
    assert names(tmp_path) == ["step-00000003"]


class Second(World):
    """The other one of two ranks, which hears from the first what `said` is."""

    said = 0

    def agree(self, value: int) -> int:
        assert value == 0
        return self.said


def test_a_root_that_is_another_directory_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_SIGHT_SECONDS", 0.1)
    monkeypatch.setattr(writer_module, "_LOOK_AFTER_SECONDS", 0.01)
    here, there = str(tmp_path / "here"), str(tmp_path / "there")
    first, second = CheckpointWriter(here, Pretrain(), {}), Second(1, 2, torch.device("cpu"))
    monkeypatch.setattr(Second, "said", first.mark)
    check_shared(here, None, second)
    with pytest.raises(ValueError, match=r"is not the directory on .*: give pretrain.checkpoint_r"):
        check_shared(there, None, second)
    CheckpointWriter(there, Pretrain(), {})  # what a run that began there left
    with pytest.raises(ValueError, match=f"{there} is not the directory"):
        check_shared(there, None, second)
    check_shared("memory://anywhere", None, second)
    # What a network file system shows late is waited for.
    monkeypatch.setattr(writer_module, "_SIGHT_SECONDS", 60.0)
    monkeypatch.setattr("time.sleep", lambda _: write_bytes(f"{there}/owner", first._token))
    check_shared(there, None, second)


def test_old_checkpoints_go_in_the_background_too(tmp_path: Path) -> None:
    config = Pretrain(keep_checkpoints=1, keep_checkpoint_every_steps=2)
    writer = CheckpointWriter(str(tmp_path), config, {})
    for step in (1, 2, 3, 5):
        writer.save_checkpoint(step, IDENTITY, STATE)
    writer.close()
    assert names(tmp_path) == ["step-00000002", "step-00000005"]


def test_a_root_that_keeps_what_is_to_go_ends_no_run(
    writer: CheckpointWriter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any) -> None:  # noqa: ANN401
        raise PermissionError("deleting is not allowed")

    monkeypatch.setattr(writer_module, "prune_checkpoints", refuse)
    for step in (1, 2, 3):
        writer.save_checkpoint(step, IDENTITY, STATE)
        assert f"step {step} is written" in str(writer.news(wait=True))
    assert len(names(tmp_path)) == 3
    assert len(caplog.messages) == 3
    assert "could not be deleted: deleting is not allowed" in caplog.text


def test_elsewhere_a_checkpoint_carries_the_metrics_of_its_steps(
    tmp_path: Path, gate: threading.Event
) -> None:
    run, root = tmp_path / "run", f"memory://{tmp_path.name}"
    run.mkdir()
    (run / "metrics.jsonl").write_bytes(b'{"step":0}\n')
    writer = CheckpointWriter(root, Pretrain(run=str(run), checkpoint_root=root), {})
    writer.save_checkpoint(1, IDENTITY, STATE)
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step":1}\n')
    gate.set()
    writer.close()
    found = newest_checkpoint(root)
    assert found is not None
    assert read_bytes(f"{found[0]}/metrics.jsonl") == b'{"step":0}\n'
