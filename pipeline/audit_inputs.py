"""Audit of inputs: every raw file is read and cleaned once more and gives the rows that are stored.

Documents and drops are compared by a digest of the rows of each file, so it does not matter in
which parts they are stored, nor in which pieces a large file was read. It is cut here into other
pieces than a refresh cuts it into: a record lost at a cut would be lost at another. And it is read
whole, without being cleaned: the pieces have to have as many records, at the same places.

It holds four digests an input; a task, what a task of cleaning holds.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import pyarrow as pa

from corpus.archives import InputFile
from corpus.documents import DIGEST_MODULUS, DROP_SCHEMA, KEPT_COLUMNS, digest_rows
from corpus.files import exists
from corpus.forgotten import Forgotten, read_forgotten
from corpus.readers import read_records
from corpus.recipe import Clean
from corpus.snapshots import Input, Part, Tree
from corpus.splits import Piece, survey
from pipeline import cuts
from pipeline.chain import open_chain
from pipeline.clean import Cleaner, Origin
from pipeline.cuts import Cut, Read, join_inputs, of_file
from pipeline.explain import Store
from pipeline.jobs import Pool
from pipeline.parquet import read_table

# What cleaning makes of an input, and the columns that are compared.
_TABLES: dict[str, Sequence[str]] = {"clean": KEPT_COLUMNS, "dropped": DROP_SCHEMA.names}
_PLACE = ("snapshot", "source", "file")
_COUNTED = ("records", "positions")

_Place = tuple[str, str, str]
# Digests of rows by kind of table and by the place of their file.
_Digests = dict[str, dict[_Place, int]]


class _How(NamedTuple):
    """What inputs are cleaned with: the store of the lists, the recipe's section, what is out."""

    root: str
    config: Clean
    forgotten: Forgotten


class _Found(NamedTuple):
    """What a task found: digests of rows, and the checksum of each file that it read whole.

    `records` are of each file how many rows there are and the sum of their positions; `whole` is
    what they have to be, of a file that was read in pieces.
    """

    digests: _Digests
    checksums: dict[_Place, str]
    records: Counter[tuple[_Place, str]]
    whole: Counter[tuple[_Place, str]]


class _Surveyed(NamedTuple):
    """What is known of a large file: its pieces, its checksum, and how its records count."""

    pieces: tuple[Piece, ...]
    checksum: str
    records: int
    positions: int


def check_inputs(store: Store, pool: Pool, not_checked: list[str]) -> Iterator[str]:
    """Clean every input again and compare documents and drops with what is stored."""
    stored = _empty()
    parts = store.snapshot.part_list()
    for digests in pool.map("rows", _digest_part, parts, store.tree):
        _add(stored, digests)
    again = _clean_all(store, pool)
    for source in store.snapshot.inputs:
        name, place = f"{source.source}: {source.name}", _place_of(source)
        found = {kind: digests.pop(place, 0) for kind, digests in stored.items()}
        if place not in again.checksums:
            not_checked.append(f"{name} is not at {source.path} any more")
        elif again.checksums[place] != source.checksum:
            not_checked.append(f"{name} is another file by now")
        else:
            odd = [kind for kind in _TABLES if found[kind] != again.digests[kind][place]]
            yield from (f"{name} read again gives other {kind} rows than stored" for kind in odd)
            if any(again.records[place, what] != again.whole[place, what] for what in _COUNTED):
                yield f"{name} has other records when it is read whole than in pieces"
    for _, source_name, file in sorted(set().union(*stored.values())):
        yield f"{source_name}: there are rows of {file}, which is no input"


def _clean_all(store: Store, pool: Pool) -> _Found:
    """Clean all inputs that are as they were delivered, large ones in pieces."""
    how = _How(store.root, store.recipe.clean, read_forgotten(store.root))
    groups = join_inputs(store.snapshot.inputs)
    large = [group[0] for group in groups if group[0].size_bytes > cuts.PIECE_BYTES]
    places = map(_place_of, large)
    surveys = pool.map("survey", _survey, large, how.config.max_record_bytes)
    surveyed = dict(zip(places, surveys, strict=True))
    found = _Found(_empty(), {}, Counter(), Counter())
    tasks: list[Cut] = []
    for group in groups:
        place = _place_of(group[0])
        if place not in surveyed:
            tasks.append(Cut(group, ""))
        elif (known := surveyed[place]) is not None:
            found.checksums[place] = known.checksum
            found.whole.update({(place, what): getattr(known, what) for what in _COUNTED})
            if known.checksum == group[0].checksum:
                tasks += [Cut(group, "", numbered) for numbered in enumerate(known.pieces)]
    for each in pool.map("inputs", _clean_again, tasks, how):
        _add(found.digests, each.digests)
        found.checksums.update(each.checksums)
        found.records.update({key: each.records[key] for key in each.records if key in found.whole})
    return found


def _survey(source: Input, max_record_bytes: int) -> _Surveyed | None:
    """Return what is known of a large file; None where it is gone."""
    if not exists(source.path):
        return None
    sizes = (cuts.PIECE_BYTES * 3 // 4, max_record_bytes)
    found = survey(source.path, source.format, *sizes, source.options)
    records = positions = 0
    with closing(InputFile(source.path)) as file:
        for each in read_records(file, source.format, max_record_bytes, source.options):
            records += 1
            positions += each.position
    return _Surveyed(*found, records, positions)


def _clean_again(cut: Cut, how: _How) -> _Found:
    """Return what cleaning gives of some inputs of one delivery and source, or of a piece of one.

    Files that are gone are left out.
    """
    found = _Found(_empty(), {}, Counter(), Counter())
    cleaner = Cleaner(
        Origin(cut.snapshot, cut.source), open_chain(how.root, how.config), how.forgotten
    )
    limit = how.config.max_record_bytes
    records = cut.read(limit) if cut.given else _read(cut.inputs, limit, found.checksums)
    for part in cleaner.parts(records):
        for kind, table in (("clean", part.documents()), ("dropped", part.dropped())):
            _digest_into(found.digests[kind], table, _TABLES[kind])
            for place, position in zip(_places(table), table["position"].to_pylist(), strict=True):
                found.records[place, "records"] += 1
                found.records[place, "positions"] += position
    return found


def _read(
    inputs: Sequence[Input], max_record_bytes: int, checksums: dict[_Place, str]
) -> Iterator[Read]:
    for source in inputs:
        if exists(source.path):
            with closing(InputFile(source.path)) as file:
                records = read_records(file, source.format, max_record_bytes, source.options)
                yield from of_file(source.name, records)
                checksums[_place_of(source)] = file.checksum()


def _digest_part(part: Part, tree: Tree) -> _Digests:
    """Return the digests of the rows that a part holds."""
    found = _empty()
    for kind, columns in _TABLES.items():
        path = tree.find(f"{kind}/{part.name}.parquet")
        _digest_into(found[kind], read_table(path, columns=[*columns]), columns)
    return found


def _digest_into(found: dict[_Place, int], table: pa.Table, columns: Sequence[str]) -> None:
    """Add the digests of rows to those of their files."""
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    for place, row in zip(_places(table), rows, strict=True):
        found[place] = (found[place] + digest_rows([row])) % DIGEST_MODULUS


def _places(table: pa.Table) -> Iterator[_Place]:
    """Give the place of the file that each row is of."""
    return zip(*(table[name].to_pylist() for name in _PLACE), strict=True)


def _add(found: _Digests, more: Mapping[str, Mapping[_Place, int]]) -> None:
    for kind, digests in more.items():
        for place, digest in digests.items():
            found[kind][place] = (found[kind][place] + digest) % DIGEST_MODULUS


def _empty() -> _Digests:
    return {kind: defaultdict(int) for kind in _TABLES}


def _place_of(source: Input) -> _Place:
    return source.snapshot, source.source, source.name
