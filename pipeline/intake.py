"""Intake: which cleaning tasks the inputs of a delivery need; a large file is read by several.

A file beyond `PIECE_BYTES` is surveyed once, to learn where its pieces start; each piece is cleaned
by a task of its own. Which pieces a file has depends on its content alone, and records have the
places that they have in the whole file, so nothing of it shows in a result.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from corpus.snapshots import Input, Tree
from corpus.splits import Piece, survey
from pipeline.clean import Lineage, check_unchanged, clean_file, clean_piece, input_name
from pipeline.jobs import Output, Record, Stages, Task

# Raw bytes of a piece: large beside the start of a task, small beside a day. Guess.
PIECE_BYTES = 128 * 2**20


class Intake(NamedTuple):
    """One cleaning task and the input that it reads, all of it or a piece."""

    source: Input
    task: Task


def plan_cleaning(inputs: Sequence[Input], lineage: Lineage, stages: Stages) -> list[Intake]:
    """Return the cleaning tasks of all inputs, in order, after a survey of the large ones."""
    large = [each for each in inputs if each.size_bytes > PIECE_BYTES]
    limit = lineage.clean.max_record_bytes
    surveyed = stages.run(
        "survey", [Task(input_name(each), survey_file, (each, limit)) for each in large]
    )
    plan = []
    for each in inputs:
        name = input_name(each)
        record = surveyed.get(name)
        pieces = record.counts["pieces"] if record is not None else []
        if not lineage.forgotten.is_empty:
            name += f"-{lineage.forgotten.fingerprint[:16]}"
        if len(pieces) < 2:
            plan.append(Intake(each, Task(name, clean_file, (each, lineage))))
        for number, fields in enumerate(pieces if len(pieces) > 1 else ()):
            arguments = (each, lineage, (number, Piece(*fields)))
            plan.append(Intake(each, Task(f"{name}.{number:05d}", clean_piece, arguments)))
    return plan


def survey_file(_tree: Tree, _task: str, source: Input, max_record_bytes: int) -> Output:
    """Find where the pieces of a file start, and check that it is the planned one."""
    pieces, checksum = survey(source.path, source.format, PIECE_BYTES, max_record_bytes)
    check_unchanged(checksum, source.checksum, source)
    return Output((), {"pieces": [list(piece) for piece in pieces]})


def parts_by_source(
    plan: Sequence[Intake], cleaned: Mapping[str, Record]
) -> dict[str, list[dict[str, Any]]]:
    """Return what is known of the cleaned parts of every source."""
    by_source: dict[str, list[dict[str, Any]]] = {}
    for source, task in plan:
        by_source.setdefault(source.source, []).extend(cleaned[task.name].counts["parts"])
    return by_source
