"""What a run reports: one JSON line a step in metrics.jsonl, and progress for whoever watches.

Beside what the step found, a line has the rate, the share of the step that waited for data, the
operations a second (flops.py), their share of the devices' peak (`utilization`, null where a device
is unknown) and the seconds that are left. The same numbers go to the trackers (trackers.py).

Steps count from 0, so line `step: k` belongs to global batch k and `explain-step RUN k`. A run that
goes on from a checkpoint first cuts the lines of steps that it will take again, so that every step
stands there once. On a terminal there is a bar with rate and time left; elsewhere a log line at
most every ten seconds. What was left out is told where there is any: batches and rollbacks since
the run began (spikes.py), steps that made no update, their gradients being no numbers (engine.py),
since it was started. Only rank 0 reports.
"""

import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
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

from corpus.files import naming_full, write_bytes
from pretrain.trackers import Tracker

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 10.0


def read_metrics(run: str) -> list[dict[str, Any]]:
    """Read the metrics of a run; a last line that a kill cut short is left out."""
    path = Path(run) / METRICS
    try:
        return parse_metrics(path.read_bytes()) if path.exists() else []
    except ValueError as error:
        raise ValueError(f"{path}: {error}: delete that line") from None


def parse_metrics(data: bytes) -> list[dict[str, Any]]:
    """Read lines of metrics, but for a last one that is cut short."""
    lines = data.splitlines(keepends=True)
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found += [orjson.loads(line)] if line.endswith(b"\n") else []
        except orjson.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON ({error})") from None
    return found


def write_metrics(run: str, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write the metrics of a run anew."""
    write_bytes(str(Path(run) / METRICS), b"".join(map(_line, lines)))


def perplexity(loss: float) -> float:
    """Give the perplexity of a loss in nats; infinite where a float64 cannot hold it."""
    return math.exp(loss) if loss < 700 else math.inf


def rates(values: Mapping[str, Any], peak: float | None) -> dict[str, float | None]:
    """Turn the work and the seconds of a step into rates and shares.

    `peak` is what all devices together can do, in operations a second; None where one is unknown.
    """
    per_second = values["flops"] / values["seconds"]
    return {
        "tokens_per_second": round(values["tokens"] / values["seconds"], 1),
        "data_wait_share": round(values["data_wait_seconds"] / values["seconds"], 4),
        "flops_per_second": round(per_second),
        "utilization": None if peak is None else round(per_second / peak, 4),
    }


class Reporter:
    """Writes metrics.jsonl and shows progress; on other ranks than the first it does nothing."""

    def __init__(
        self,
        run: str,
        first_step: int,
        max_steps: int,
        active: bool,
        peak: float | None = None,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        """Cut the metrics to the steps before `first_step` and start the clock."""
        self._path = Path(run) / METRICS
        self._first_step, self._max_steps = first_step, max_steps
        self._active, self._peak, self._trackers = active, peak, trackers
        self._last_line = -math.inf
        self._start = time.monotonic()
        self._closing = ExitStack()
        console = Console(stderr=True)
        self._bar = _bar(console) if active and console.is_terminal else None
        self._task: TaskID | None = None
        if self._bar:
            self._task = self._bar.add_task(
                "", total=self._max_steps, completed=self._first_step, shown=""
            )
        if active:
            kept = [line for line in read_metrics(run) if line["step"] < self._first_step]
            write_metrics(run, kept)

    def __enter__(self) -> "Reporter":
        """Show the bar."""
        for tracker in self._trackers:
            self._closing.callback(tracker.close)
        if self._bar:
            self._closing.enter_context(self._bar)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away and close the trackers."""
        self._closing.close()

    def report(self, step: int, values: Mapping[str, Any]) -> None:
        """Record a finished step: its tokens, operations, seconds, and loss in nats a label."""
        if not self._active:
            return
        now = time.monotonic()
        per_step = (now - self._start) / (step + 1 - self._first_step)
        seconds_left = per_step * (self._max_steps - step - 1)
        found = {**values, **rates(values, self._peak), "seconds_left": round(seconds_left, 1)}
        with naming_full(str(self._path)), self._path.open("ab") as stream:
            stream.write(_line({"step": step, **found}))
        for tracker in self._trackers:
            tracker.log(step, _numbers(found))
        if self._bar and self._task is not None:
            shown = f"{_pace(found)}, {_shares(found)}"
            self._bar.update(self._task, completed=step + 1, shown=shown)
        is_edge = step in (self._first_step, self._max_steps - 1) or "validation_loss" in values
        if is_edge or now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._log(step, found)

    def _log(self, step: int, found: Mapping[str, Any]) -> None:
        shown = _pace(found)
        if "validation_loss" in found:
            shown += (
                f", validation loss {found['validation_loss']:.3f} "
                f"(perplexity {found['perplexity']:,.1f})"
            )
        left = timedelta(seconds=round(found["seconds_left"]))
        self.note(f"step {step:,} of {self._max_steps:,}: {shown}, {left} left, {_shares(found)}")

    def note(self, text: str) -> None:
        """Say something beside the progress."""
        if self._bar:
            self._bar.console.print(text, highlight=False, soft_wrap=True)
        elif self._active:
            logger.info(text)


def _pace(found: Mapping[str, Any]) -> str:
    skipped = found.get("skipped_steps", 0)
    told = f", {_count(skipped, 'step')} skipped" if skipped else ""
    if left_out := found.get("skipped_batches", 0):
        rollbacks = _count(found.get("rollbacks", 0), "rollback")
        told += f", {_count(left_out, 'batch', 'batches')} left out in {rollbacks}"
    return f"loss {found['loss']:.3f}, {found['tokens_per_second']:,.0f} tokens/s{told}"


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _shares(found: Mapping[str, Any]) -> str:
    utilization = found["utilization"]
    used = "unknown" if utilization is None else f"{utilization:.1%}"
    return f"data wait {found['data_wait_share']:.1%}, utilization {used}"


def _numbers(found: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


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
