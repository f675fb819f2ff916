"""The command `evaluate`: from a recipe to a table, results.json, a page and saved models."""

import logging
import math
from typing import Any

import orjson
from pydantic import ConfigDict

from corpus.files import write_bytes
from corpus.section import Section
from pretrain.evaluation.baselines import Baseline, run_baseline
from pretrain.evaluation.prepared import read
from pretrain.evaluation.protocol import Entry, run_protocol
from pretrain.evaluation.recipe import Evaluation
from pretrain.evaluation.tasks import Task

logger = logging.getLogger(__name__)


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


def evaluate(evaluation: Evaluation) -> Report:
    """Do all that a recipe asks and was not done before; write what was found."""
    sizes = {task.name: _sizes(task) for task in evaluation.tasks}
    names = [name for name in evaluation.baselines if name != "random"]
    out = f"{evaluation.output}/baselines"
    baselines = [run_baseline(name, task, out) for task in evaluation.tasks for name in names]
    report = Report(
        tasks=evaluation.tasks,
        sizes=sizes,
        entries=run_protocol(evaluation),
        baselines=tuple(baselines),
    )
    write_bytes(f"{evaluation.output}/results.json", as_json(report))
    return report


def as_json(report: Report) -> bytes:
    """Return a report as JSON; a number that is none is null."""
    return orjson.dumps(_plain(report.model_dump(mode="json")), option=orjson.OPT_INDENT_2)


def _plain(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if value == "NaN" or (isinstance(value, float) and math.isnan(value)) else value


def _sizes(task: Task) -> Sizes:
    data = read(task)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    known = {name: split for name, split in splits.items() if split is not None}
    for name, split in known.items():
        if split.drops:
            logger.warning("%s, %s: dropped %s", task.name, name, dict(split.drops))
    return Sizes(
        examples={name: len(split.examples) for name, split in known.items()},
        drops={name: dict(split.drops) for name, split in known.items()},
        dropped=tuple(place for split in known.values() for place in split.dropped),
        labels=data.labels,
    )
