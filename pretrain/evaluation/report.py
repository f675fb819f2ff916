"""What an evaluation found, as one value: tables, results.json and the page are made of it."""

import math
from typing import Any

import orjson
from pydantic import ConfigDict

from corpus.section import Section
from pretrain.evaluation.baselines import Baseline
from pretrain.evaluation.protocol import Entry
from pretrain.evaluation.recipe import RANDOM
from pretrain.evaluation.tasks import Task


class Sizes(Section):
    """How many examples a task has, and what was dropped while reading, by split and reason."""

    examples: dict[str, int]
    drops: dict[str, dict[str, int]]
    dropped: tuple[str, ...]
    labels: tuple[str, ...]


class Report(Section):
    """Everything an evaluation found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[Task, ...]
    sizes: dict[str, Sizes]
    entries: tuple[Entry, ...]
    baselines: tuple[Baseline, ...]


def as_json(report: Report) -> bytes:
    """Return a report as JSON; a number that is none is null."""
    return orjson.dumps(_plain(report.model_dump(mode="json")), option=orjson.OPT_INDENT_2)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if value == "NaN" or (isinstance(value, float) and math.isnan(value)) else value


def verdicts(report: Report) -> list[str]:
    """Say of each task whether a checkpoint beats random weights and TF-IDF, and by how much.

    A difference within the spread of the seeds is no win.
    """
    lines = []
    for entry in report.entries:
        task = next(task for task in report.tasks if task.name == entry.task)
        if entry.contestant == RANDOM or task.metrics[0] not in entry.validation:
            continue
        for name, high in _rivals(report, task):
            mine = entry.validation[task.metrics[0]]
            gained = 100 * (mine.median - high[0])
            if mine.low > high[1]:
                verdict = "beats"
            elif mine.high < high[1]:
                verdict = "is below"
            else:
                verdict = "is not told apart from"
            seeds = "" if len(mine.values) > 1 else ", one seed"
            lines.append(
                f"{task.name}: {entry.contestant} {verdict} {name} ({gained:+.1f} points{seeds})"
            )
    return lines


def _rivals(report: Report, task: Task) -> list[tuple[str, tuple[float, float]]]:
    """Return what is to be beaten: name, median, and the greatest of its seeds."""
    metric = task.metrics[0]
    found = []
    for entry in report.entries:
        if entry.task == task.name and entry.contestant == RANDOM and metric in entry.validation:
            spread = entry.validation[metric]
            found.append((RANDOM, (spread.median, spread.high)))
    for baseline in report.baselines:
        if baseline.task == task.name and baseline.validation:
            value = baseline.validation[metric]
            found.append((baseline.name, (value, value)))
    return found
