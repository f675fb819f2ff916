"""Draws the next step's batches while the current one is trained on, and knows how long one waited.

A thread is enough: kernels, copies and hashes release the interpreter's lock. What it draws is what
would be drawn without it. It costs the memory of one more step's batches.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Steps in order, each drawn one ahead of its use."""

    def __init__(self, draw: Callable[[int], T], stop: int) -> None:
        """Draw steps below `stop` by a pure function of the step."""
        self.wait_seconds = 0.0
        self._draw, self._stop = draw, stop
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._next: tuple[int, Future[T]] | None = None

    def take(self, step: int) -> T:
        """Give what belongs to a step, and begin with the step after it.

        `wait_seconds` is then how long this took. An error of the draw is raised here.
        """
        start = time.monotonic()
        found = self._submit(step).result()
        self._next = None
        if step + 1 < self._stop:
            self._next = step + 1, self._pool.submit(self._draw, step + 1)
        self.wait_seconds = time.monotonic() - start
        return found

    def _submit(self, step: int) -> Future[T]:
        if self._next is not None and self._next[0] == step:
            return self._next[1]
        return self._pool.submit(self._draw, step)

    def close(self) -> None:
        """Wait for the draw that has begun and forget it."""
        self._pool.shutdown(cancel_futures=True)
