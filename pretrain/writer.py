"""Writes checkpoints beside the steps: a thread commits one while the next steps are taken.

A step is held up only while the state is gathered by name into memory (12 bytes a parameter with
AdamW, on the first rank); the thread then writes, commits and prunes. At most one is under way: the
next waits for it, before it gathers, and says how long. A write to an object store that fails is
tried again, with growing pauses; then an error surfaces at the next step. The end of the run waits
for the last checkpoint. A killed run loses the one that was being written.

Who opens a root takes it over: of two first ranks (the old one of a machine that was cut off and
the new one that Ray started) the older stops at its next checkpoint and deletes nothing. Between
that check and the commit there is a moment in which nothing is checked. The other ranks look for
the mark of the first one: where a path leads to a disk of each machine, ranks that are started
again could find no checkpoint and begin anew.
"""

import hashlib
import logging
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from corpus.files import (
    exists,
    is_remote,
    join,
    open_reader,
    read_bytes,
    size_bytes,
    write_bytes,
)
from corpus.training import Pretrain
from pretrain.checkpoints import CHANGES, SKIPPED, TrainingState, prune_checkpoints, save_checkpoint
from pretrain.config import Identity
from pretrain.metrics import METRICS
from pretrain.world import World

logger = logging.getLogger(__name__)

_OWNER = "owner"
# A network file system may show an older directory for a minute (nfs(5), acdirmax). Twice that.
_SIGHT_SECONDS = 120.0
_LOOK_AFTER_SECONDS = 0.5
_MARK_BYTES = 7  # as many as `World.agree` takes
# Guesses: 85 seconds together outlast throttling and a restart of a proxy, not an outage.
_PAUSES_SECONDS = (1.0, 4.0, 20.0, 60.0)


class CheckpointFailedError(RuntimeError):
    """A checkpoint could not be written; the ones before it are whole."""


class CheckpointWriter:
    """Commits checkpoints in the background; the first rank has one."""

    def __init__(self, root: str, config: Pretrain, recipe: Mapping[str, Any]) -> None:
        """Take over a root: whoever wrote there before stops at its next checkpoint."""
        self._root, self._config, self._recipe = root, config, recipe
        self._token = secrets.token_hex(16).encode()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, Future[None]] | None = None
        self._begun = 0.0
        write_bytes(join(root, _OWNER), self._token)

    @property
    def mark(self) -> int:
        """What every rank finds in a root that it shares with this one."""
        return _mark_of(self._token)

    @property
    def is_busy(self) -> bool:
        """Tell whether a checkpoint is being written."""
        return self._pending is not None and not self._pending[1].done()

    def save_checkpoint(self, step: int, identity: Identity, state: TrainingState) -> None:
        """Begin to write a checkpoint; `state` must not be changed any more."""
        self.wait_for_checkpoint()
        task = self._thread.submit(self._commit, step, identity, state, self._carried_bytes())
        self._pending, self._begun = (step, task), time.monotonic()

    def news(self, wait: bool = False) -> str | None:
        """Tell of a checkpoint that is written by now, or raise what went wrong with it."""
        if self._pending is None or (self.is_busy and not wait):
            return None
        step, begun = self._pending[0], self._begun
        self.wait_for_checkpoint()
        return f"checkpoint of step {step:,} is written, after {time.monotonic() - begun:.1f} s"

    def wait_for_checkpoint(self) -> float:
        """Wait until nothing is being written, raise what went wrong, return the seconds."""
        if self._pending is None:
            return 0.0
        start = time.monotonic()
        step, task = self._pending
        error = task.exception()
        self._pending = None
        if error is not None:
            raise CheckpointFailedError(
                f"the checkpoint of step {step:,} could not be written below {self._root}: "
                f"{error}; training stopped, the checkpoints before it are whole"
            ) from error
        return time.monotonic() - start

    def close(self) -> None:
        """Wait for the last checkpoint and end the thread."""
        try:
            self.wait_for_checkpoint()
        finally:
            self._thread.shutdown()

    def _commit(
        self, step: int, identity: Identity, state: TrainingState, carried_bytes: Mapping[str, int]
    ) -> None:
        config, root = self._config, self._root
        carried = {name: self._read_run(name, size) for name, size in carried_bytes.items()}

        def save() -> None:
            self._check_owner()
            save_checkpoint(root, step, identity, self._recipe, state, carried)

        def prune() -> None:
            self._check_owner()
            prune_checkpoints(root, config.keep_checkpoints, config.keep_checkpoint_every_steps)

        pauses = _PAUSES_SECONDS if is_remote(root) else ()
        _repeat(save, pauses)
        try:
            _repeat(prune, pauses)
        except ValueError:
            raise
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            # The new one is whole; the next is followed by another try.
            logger.warning("old checkpoints below %s could not be deleted: %s", root, error)

    def _check_owner(self) -> None:
        if read_bytes(join(self._root, _OWNER)) != self._token:
            raise ValueError("another process has taken over this run")

    def _carried_bytes(self) -> dict[str, int]:
        """Tell which files of the run belong to this checkpoint, and how much of each.

        Metrics stay at home where the checkpoints are.
        """
        run = self._config.run
        names = (METRICS, SKIPPED, CHANGES) if self._config.checkpoint_root else (SKIPPED, CHANGES)
        if run is None:
            return {}
        return {name: size_bytes(join(run, name)) for name in names if exists(join(run, name))}

    def _read_run(self, name: str, length: int) -> bytes:
        assert self._config.run is not None
        with open_reader(join(self._config.run, name)) as stream:
            return stream.read(length)


def check_shared(root: str, writer: CheckpointWriter | None, world: World) -> None:
    """Refuse a path that is another directory on another rank's machine; all must take part."""
    if world.size == 1 or is_remote(root):
        return
    mark, deadline = world.agree(writer.mark if writer else 0), time.monotonic() + _SIGHT_SECONDS
    while _mark_below(root) != mark:
        if time.monotonic() > deadline:
            raise ValueError(
                f"{root} is not the directory on {socket.gethostname()} that it is on the machine "
                "of the first rank, and ranks that are started again elsewhere would not find its "
                "checkpoints: give pretrain.checkpoint_root a URL or a path that all machines share"
            )
        time.sleep(_LOOK_AFTER_SECONDS)


def _mark_below(root: str) -> int | None:
    try:
        return _mark_of(read_bytes(join(root, _OWNER)))
    except FileNotFoundError:
        return None


def _mark_of(token: bytes) -> int:
    return int.from_bytes(hashlib.sha256(token).digest()[:_MARK_BYTES])


def _repeat(task: Callable[[], None], pauses: Sequence[float]) -> None:
    """Do something that may be done twice, again after each pause where it fails."""
    for pause in pauses:
        try:
            return task()
        except ValueError:
            raise
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            logger.warning("a checkpoint is tried again in %g s: %s", pause, error)
        time.sleep(pause)
    return task()
