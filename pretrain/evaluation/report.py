"""What an evaluation found, as one value: tables, results.json and the page are made of it."""

import math
from typing import Any, NamedTuple

import orjson
from pydantic import ConfigDict

from corpus.section import Section
from pretrain.evaluation.baselines import Baseline
from pretrain.evaluation.fits import tell_fits
from pretrain.evaluation.protocol import Entry
from pretrain.evaluation.recipe import RANDOM
from pretrain.evaluation.tasks import Task, score_name


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


def tell_sizes(sizes: Sizes) -> str:
    """Say how many examples each set of a task has."""
    counts = sizes.examples.items()
    return "examples: " + ", ".join(f"{count:,} in {split}" for split, count in counts)


def misfits(report: Report, task: Task) -> list[str]:
    """Say what of a task's texts did not fit, and whose inputs, where it is not everyone's."""
    entries = [entry for entry in report.entries if entry.task == task.name]
    whose: dict[str, list[str]] = {}
    for entry in entries:
        for line in tell_fits(task, entry.fits):
            whose.setdefault(line, []).append(entry.contestant)
    return [
        line if len(names) == len(entries) else f"{line} ({', '.join(names)})"
        for line, names in whose.items()
    ]


def further_scores(report: Report, task: Task) -> list[tuple[str, str]]:
    """List the sets that nothing was chosen by, with every metric: what to show and its name."""
    chosen_by = ("train", "validation")
    splits = [name for name in report.sizes[task.name].examples if name not in chosen_by]
    return [(f"{name} {each}", score_name(name, each)) for name in splits for each in task.metrics]


def verdicts(report: Report) -> list[str]:
    """Say of each task whether a checkpoint beats random weights and TF-IDF, and by how much.

    Only seeds that lie apart decide: all of one above all of the other; a seed that diverged to no
    score lies below all. The difference told is that of the medians.
    """
    lines = []
    for entry in report.entries:
        task = next(task for task in report.tasks if task.name == entry.task)
        if entry.contestant == RANDOM or task.metrics[0] not in entry.validation:
            continue
        mine, low = entry.validation[task.metrics[0]], _least(entry, task.metrics[0])
        for rival in _rivals(report, task):
            told = f"{100 * (mine.median - rival.median):+.1f} points"
            verdict = "is not told apart from"
            if low > rival.high:
                verdict = "beats"
            elif mine.high < rival.low:
                verdict = "is below"
            else:
                told += ", within the spread"
            told += "" if len(mine.values) > 1 else ", one seed"
            lines.append(f"{task.name}: {entry.contestant} {verdict} {rival.name} ({told})")
    return lines


def _least(entry: Entry, metric: str) -> float:
    """Return the least score of all seeds, below all others where one has none."""
    results = entry.winner.results if entry.cells else ()
    is_whole = all(result.best is not None for result in results)
    return entry.validation[metric].low if is_whole else -math.inf


class _Rival(NamedTuple):
    """What is to be beaten, with the least and greatest of its seeds."""

    name: str
    median: float
    low: float
    high: float


def _rivals(report: Report, task: Task) -> list[_Rival]:
    metric = task.metrics[0]
    found = []
    for entry in report.entries:
        if entry.task == task.name and entry.contestant == RANDOM and metric in entry.validation:
            spread = entry.validation[metric]
            found.append(_Rival(RANDOM, spread.median, _least(entry, metric), spread.high))
    for baseline in report.baselines:
        if baseline.task == task.name and baseline.validation:
            value = baseline.validation[metric]
            found.append(_Rival(baseline.name, value, value, value))
    return found
