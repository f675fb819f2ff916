"""Intake: which cleaning tasks the inputs of a delivery need; a large file is read by several.

A file beyond `PIECE_BYTES` is surveyed once, to learn where its pieces start; each piece is cleaned
by a task of its own. Which pieces a file has depends on its content alone, and records have the
places that they have in the whole file, so nothing of it shows in a result.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from corpus.snapshots import Input, Tree
from corpus.splits import Piece, survey
from pipeline.clean import Lineage, check_unchanged, clean_file, input_name
from pipeline.jobs import Output, Record, Stages, Task

# Raw bytes of a piece: large beside the start of a task, small beside a day. Guess.
PIECE_BYTES = 128 * 2**20


class Intake(NamedTuple):
    """One cleaning task and the input that it reads, all of it or a piece."""

    source: Input
    task: Task


class Cut(NamedTuple):
    """What one task reads: an input whole, or one of its pieces by number; `name` tells them."""

    source: Input
    name: str
    given: tuple[int, Piece] | None = None


def plan_cleaning(inputs: Sequence[Input], lineage: Lineage, stages: Stages) -> list[Intake]:
    """Return the cleaning tasks of all inputs, in order, after a survey of the large ones."""
    known = lineage.forgotten
    suffix = "" if known.is_empty else f"-{known.fingerprint[:16]}"
    return [
        Intake(cut.source, Task(cut.name, clean_file, (cut.source, lineage, cut.given)))
        for cut in cut_inputs(inputs, lineage.clean.max_record_bytes, stages, ("", suffix))
    ]


def cut_inputs(
    inputs: Sequence[Input],
    max_record_bytes: int,
    stages: Stages,
    around: tuple[str, str] = ("", ""),
) -> list[Cut]:
    """Return what tasks read, in the order of inputs; `around` stands about an input's name."""
    before, after = around
    large = [each for each in inputs if each.size_bytes > PIECE_BYTES]
    tasks = [
        Task(before + input_name(each), survey_file, (each, max_record_bytes)) for each in large
    ]
    surveyed = stages.run("survey", tasks)
    cuts = []
    for each in inputs:
        record = surveyed.get(before + input_name(each))
        name = f"{before}{input_name(each)}{after}"
        pieces = record.counts["pieces"] if record is not None else []
        if len(pieces) < 2:
            cuts.append(Cut(each, name))
            continue
        for number, fields in enumerate(pieces):
            cuts.append(Cut(each, f"{name}.{number:05d}", (number, Piece(*fields))))
    return cuts


def survey_file(_tree: Tree, _task: str, source: Input, max_record_bytes: int) -> Output:
    """Find where the pieces of a file start, and check that it is the planned one."""
    encoding = source.options.encoding
    pieces, checksum = survey(source.path, source.format, PIECE_BYTES, max_record_bytes, encoding)
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
