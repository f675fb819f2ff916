"""What an evaluation found, as one value: tables, results.json and the page are made of it."""

import math
from typing import Any

import orjson
from pydantic import ConfigDict

from corpus.section import Section
from pretrain.evaluation.baselines import Baseline
from pretrain.evaluation.protocol import Entry
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
