"""What a run reports: one JSON line a step in metrics.jsonl, and progress for whoever watches.

Steps count from 0, so line `step: k` belongs to global batch k and `explain-step RUN k`. A run that
goes on from a checkpoint first cuts the lines of steps that it will take again, so that every step
stands there once. On a terminal there is a bar with rate and time left; elsewhere a log line at
most every ten seconds. Only rank 0 reports.
"""

import logging
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from corpus.files import write_bytes

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 10.0


def read_metrics(run: str) -> list[dict[str, Any]]:
    """Read the metrics of a run; a last line that a kill cut short is left out."""
    path = Path(run) / METRICS
    if not path.exists():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [orjson.loads(line) for line in lines if line.endswith(b"\n")]


def perplexity(loss: float) -> float:
    """Give the perplexity of a loss in nats; infinite where a float64 cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


class Reporter:
    """Writes metrics.jsonl and shows progress; on other ranks than the first it does nothing."""

    def __init__(self, run: str, first_step: int, max_steps: int, active: bool) -> None:
        """Cut the metrics to the steps before `first_step` and start the clock."""
        self._path = Path(run) / METRICS
        self._first_step, self._max_steps = first_step, max_steps
        self._active = active
        self._last_line = -math.inf
        self._start = time.monotonic()
        console = Console(stderr=True)
        self._bar = _bar(console) if active and console.is_terminal else None
        self._task: TaskID | None = None
        if self._bar:
            self._task = self._bar.add_task("", total=max_steps, completed=first_step, shown="")
        if active:
            kept = [line for line in read_metrics(run) if line["step"] < first_step]
            write_bytes(str(self._path), b"".join(_line(line) for line in kept))

    def __enter__(self) -> "Reporter":
        """Show the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()

    def report(self, step: int, values: Mapping[str, Any]) -> None:
        """Record a finished step: its tokens, seconds, and loss in nats a label are in `values`."""
        if not self._active:
            return
        now = time.monotonic()
        rate = values["tokens"] / values["seconds"]
        with self._path.open("ab") as stream:
            stream.write(_line({"step": step, **values, "tokens_per_second": round(rate, 1)}))
        shown = f"loss {values['loss']:.3f}, {rate:,.0f} tokens/s"
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=step + 1, shown=shown)
        is_edge = step in (self._first_step, self._max_steps - 1) or "validation_loss" in values
        if is_edge or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._log(step, shown, values)

    def _log(self, step: int, shown: str, values: Mapping[str, Any]) -> None:
        if "validation_loss" in values:
            shown += (
                f", validation loss {values['validation_loss']:.3f} "
                f"(perplexity {values['perplexity']:,.1f})"
            )
        done = step + 1 - self._first_step
        seconds = (time.monotonic() - self._start) / done * (self._max_steps - step - 1)
        left = timedelta(seconds=round(seconds))
        self.note(f"step {step:,} of {self._max_steps:,}: {shown}, {left} left")

    def note(self, text: str) -> None:
        """Say something beside the progress."""
        if self._bar:
            self._bar.console.print(text, highlight=False, soft_wrap=True)
        elif self._active:
            logger.info(text)


def _bar(console: Console) -> Progress:
    return Progress(
        MofNCompleteColumn(),
        TextColumn("steps"),
        BarColumn(),
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(),
        console=console,
    )


def _line(values: Mapping[str, Any]) -> bytes:
    return orjson.dumps(values, option=orjson.OPT_APPEND_NEWLINE)
