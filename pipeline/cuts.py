"""Cuts: what one cleaning task reads, a piece of a large raw file or many small ones together.

A file beyond `PIECE_BYTES` is surveyed once, to learn where its pieces start; each piece is read by
a task of its own. Small files of one source are joined up to `JOINED_BYTES`, as a task and its
files in a store cost more than to read them. Both follow from what a delivery brings and from
nothing else, and records have the places that they have in their whole file, so nothing of it
shows in a result.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import orjson

from corpus.archives import InputFile
from corpus.files import size_bytes
from corpus.formats import SEEKING
from corpus.readers import read_records
from corpus.records import Damage, Record
from corpus.snapshots import Input, Tree
from corpus.splits import Piece, open_piece, read_piece, survey
from pipeline.jobs import Output, Stages, Task

# Raw bytes of a piece: large beside the start of a task, small beside a day. Guess.
PIECE_BYTES = 128 * 2**20
# Raw bytes and number of files that one task reads at most where it reads several: cleaning 4 MiB
# takes half a second and more, what a task costs beside is some 30 ms (measured with 3,000 files of
# 3 KB), and to open a file in a bucket as much again. Guesses.
JOINED_BYTES, JOINED_FILES = 4 * 2**20, 1024
# A small delivery is read by as many tasks, where it has the files, for as many workers. Guess.
_TASKS_WANTED = 64

# A record or damage with the name of its file.
Read = tuple[str, Record | Damage]


class Cut(NamedTuple):
    """What one task reads: files of one delivery and source, or of one file a piece by its number.

    `name` tells the cuts of a stage apart.
    """

    inputs: tuple[Input, ...]
    name: str
    given: tuple[int, Piece] | None = None

    @property
    def source(self) -> str:
        """The source that all of it is from."""
        return self.inputs[0].source

    @property
    def snapshot(self) -> str:
        """The snapshot that delivers it."""
        return self.inputs[0].snapshot

    @property
    def stem(self) -> str:
        """Name what comes of this cut, after its source and the identity of what it reads."""
        number = f"-{self.given[0]:05d}." if self.given else "-"
        return name_inputs(self.inputs) + number

    def read(self, max_record_bytes: int) -> Iterator[Read]:
        """Give the records of all files in order; each has to be as it was listed."""
        piece = self.given[1] if self.given else None
        for source in self.inputs:
            yield from _read(source, max_record_bytes, piece)


def cut_inputs(
    inputs: Sequence[Input],
    max_record_bytes: int,
    stages: Stages,
    around: tuple[str, str] = ("", ""),
) -> list[Cut]:
    """Return what tasks read, in the order of inputs; `around` stands about an input's name."""
    before, after = around
    groups = join_inputs(inputs)
    large = [group for group in groups if group[0].size_bytes > PIECE_BYTES]
    tasks = [
        Task(before + name_inputs(group), survey_file, (*group, max_record_bytes))
        for group in large
    ]
    surveyed = stages.run("survey", tasks)
    cuts = []
    for group in groups:
        record = surveyed.get(before + name_inputs(group))
        name = f"{before}{name_inputs(group)}{after}"
        pieces = record.counts["pieces"] if record is not None else []
        if len(pieces) < 2:
            cuts.append(Cut(group, name))
            continue
        for number, fields in enumerate(pieces):
            cuts.append(Cut(group, f"{name}.{number:05d}", (number, Piece(*fields))))
    return cuts


def join_inputs(inputs: Iterable[Input]) -> list[tuple[Input, ...]]:
    """Put small files of a source and delivery together; inputs of one are side by side."""
    groups: list[tuple[Input, ...]] = []
    for _, delivered in groupby(inputs, attrgetter("snapshot")):
        files = list(delivered)
        most = min(JOINED_BYTES, sum(each.size_bytes for each in files) // _TASKS_WANTED)
        for _, of_source in groupby(files, attrgetter("source")):
            groups += _join(of_source, most)
    return groups


def _join(inputs: Iterable[Input], most_bytes: int) -> Iterator[tuple[Input, ...]]:
    """Give groups of files in order, each of so many bytes at most or of one file."""
    group: list[Input] = []
    held = 0
    for each in inputs:
        held += each.size_bytes
        if group and (held > most_bytes or len(group) == JOINED_FILES):
            yield tuple(group)
            group, held = [], each.size_bytes
        group.append(each)
    if group:
        yield tuple(group)


def name_inputs(inputs: Sequence[Input]) -> str:
    """Name what comes of inputs of one source after it and their identities."""
    identities = orjson.dumps([each.identity for each in inputs])
    return f"{inputs[0].source}-{hashlib.sha256(identities).hexdigest()[:16]}"


def survey_file(_tree: Tree, _task: str, source: Input, max_record_bytes: int) -> Output:
    """Find where the pieces of a file start, and check that it is the planned one."""
    sizes = (PIECE_BYTES, max_record_bytes)
    pieces, checksum = survey(source.path, source.format, *sizes, source.options)
    check_unchanged(checksum, source.checksum, source)
    return Output((), {"pieces": [list(piece) for piece in pieces]})


def _read(source: Input, max_record_bytes: int, piece: Piece | None) -> Iterator[Read]:
    """Give the records of a raw file or a piece of it; in the end check that it is as listed."""
    if piece is None:
        file = InputFile(source.path)
        records = read_records(file, source.format, max_record_bytes, source.options)
    else:
        file = open_piece(source.path, source.format, piece)
        records = read_piece(file, source.format, piece, max_record_bytes, source.options)
    try:
        yield from of_file(source.name, records)
        if piece is None:
            check_unchanged(file.checksum(), source.checksum, source)
        elif source.format in SEEKING:  # where each piece would have to read the whole file
            check_unchanged(str(size_bytes(source.path)), str(source.size_bytes), source)
        else:
            check_unchanged(file.checksum(), piece.checksum, source)
    finally:
        file.close()


def of_file(name: str, records: Iterable[Record | Damage]) -> Iterator[Read]:
    """Give records with the name of the file that they are from."""
    return ((name, each) for each in records)


def check_unchanged(found: str, known: str, source: Input) -> None:
    """Refuse an input whose checksum is not the one that it was listed with."""
    if found != known:
        raise ValueError(
            f"{source.path} changed since it was listed: its checksum was {known} "
            f"and is {found}: give the new content a label of its own, or put the old file back"
        )
