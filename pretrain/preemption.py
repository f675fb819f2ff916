"""What to do when a machine is about to be taken away: a checkpoint at the next step.

SIGTERM (a batch system, a spot machine, Kubernetes, torchrun passing it on) only sets a flag. After
each step the ranks agree on whether any of them was told, so that all of them gather the same
checkpoint; that costs one number summed over the ranks a step. Then the run ends with exit status
143, as SIGTERM would have ended it, and the same command goes on from there.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pretrain.world import World

EXIT_STATUS = 128 + signal.SIGTERM

_told = threading.Event()


class PreemptedError(RuntimeError):
    """The run was told to end, and has written a checkpoint."""


class Notice:
    """Tells all ranks of a run, at the same step, that one of them was told to end."""

    def arrives(self, world: World) -> bool:
        """Tell whether a notice has come; all ranks must ask alike."""
        return world.any_of(_told.is_set())

    def answer(self, steps: int) -> None:
        """End the run, now that a checkpoint of so many steps is written."""
        raise PreemptedError(
            f"told to end after {steps:,} steps: their checkpoint is written, the same command "
            "goes on from it"
        )


@contextmanager
def listening(forward: Callable[[], None] = _told.set) -> Iterator[None]:
    """Call `forward` at SIGTERM instead of ending; only a main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        forward()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _told.clear()
