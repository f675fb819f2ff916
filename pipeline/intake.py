"""Intake: which cleaning tasks the inputs of a delivery need, and what is known of their parts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from corpus.snapshots import Input
from pipeline.clean import Lineage, clean_cut
from pipeline.cuts import Cut, cut_inputs
from pipeline.jobs import Record, Stages, Task


class Intake(NamedTuple):
    """One cleaning task and what it reads."""

    cut: Cut
    task: Task


def plan_cleaning(inputs: Sequence[Input], lineage: Lineage, stages: Stages) -> list[Intake]:
    """Return the cleaning tasks of all inputs, in order, after a survey of the large ones."""
    known = lineage.forgotten
    suffix = "" if known.is_empty else f"-{known.fingerprint[:16]}"
    cuts = cut_inputs(inputs, lineage.clean.max_record_bytes, stages, ("", suffix))
    return [Intake(cut, Task(cut.name, clean_cut, (cut, lineage))) for cut in cuts]


def parts_by_source(
    plan: Sequence[Intake], cleaned: Mapping[str, Record]
) -> dict[str, list[dict[str, Any]]]:
    """Return what is known of the cleaned parts of every source."""
    by_source: dict[str, list[dict[str, Any]]] = {}
    for cut, task in plan:
        by_source.setdefault(cut.source, []).extend(cleaned[task.name].counts["parts"])
    return by_source
