"""Which documents a shard holds: arithmetic on hashes of ids, and their ids read back.

A document is dealt by a hash of its id: the lowest `validation_fraction` of the hash space is the
validation split, the rest is train, and each split is cut into equal ranges, its shards. So which
documents a shard holds depends on nothing but their ids and the number of shards, and no list of
them is kept: they are those of its range in the tokens files of its source, in the order of the
hashes. Of these files ids and hashes are read and nothing else, of a document's page its address.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from corpus.files import RemoteError, is_remote, open_reader
from corpus.recipe import Pack, Recipe
from corpus.snapshots import ShardEntry, Snapshot, Tree

SPLITS = ("train", "validation")
HASH_SPACE = 2**64
# The columns of a tokens file that say whose tokens they are: `id` and `hash` come first.
_WHOSE = (0, 1)


class ShardPlan(NamedTuple):
    """One shard: where it lies and the range of document hashes [low, high) that it holds."""

    snapshot: str
    source: str
    split: str
    number: int
    low: int
    high: int

    @property
    def name(self) -> str:
        """Name of the shard's task; no label holds a plus sign."""
        return f"{self.snapshot}+{self.source}+{self.split}-{self.number:05d}"

    @property
    def path(self) -> str:
        """Path of the shard below the snapshot."""
        return f"shards/{self.snapshot}/{self.source}/{self.split}-{self.number:05d}.arrow"


class Held(NamedTuple):
    """A document of a shard, and the part that it came in."""

    id: str
    part: str


def split_range(split: str, validation_fraction: float) -> tuple[int, int]:
    """Return the range of document hashes [low, high) of a split."""
    cut = int(validation_fraction * HASH_SPACE)
    return (0, cut) if split == "validation" else (cut, HASH_SPACE)


def cut_split(place: tuple[str, str, str], shards: int, config: Pack) -> list[ShardPlan]:
    """Cut the hashes of one (snapshot, source, split) into equal ranges, its shards."""
    low, high = split_range(place[2], config.validation_fraction)
    bounds = [low + (high - low) * number // shards for number in range(shards)] + [high]
    return [ShardPlan(*place, n, *bounds[n : n + 2]) for n in range(shards)]


def planned_shards(
    snapshot: Snapshot, delivered: tuple[str, str], config: Pack
) -> list[tuple[ShardPlan, ShardEntry]]:
    """Return the shards of a delivery's source, (snapshot, source), each with its hash range."""
    planned: list[tuple[ShardPlan, ShardEntry]] = []
    for split in SPLITS:
        place = (*delivered, split)
        mine = [e for e in snapshot.shards if (e.snapshot, e.source, e.split) == place]
        if mine:
            mine.sort(key=lambda each: each.path)
            planned += zip(cut_split(place, len(mine), config), mine, strict=True)
    return planned


def shard_plan(snapshot: Snapshot, entry: ShardEntry) -> ShardPlan:
    """Return the hash range of a shard, from its number and how many shards its split has."""
    config = Recipe.model_validate(snapshot.recipe).pack
    planned = planned_shards(snapshot, (entry.snapshot, entry.source), config)
    return next(plan for plan, each in planned if each.path == entry.path)


def parts_by_delivery(snapshot: Snapshot) -> dict[tuple[str, str], list[str]]:
    """Return the names of the parts of every (snapshot, source)."""
    names: dict[tuple[str, str], list[str]] = {}
    for part in snapshot.parts:
        names.setdefault((part.snapshot, part.source), []).append(part.name)
    return names


def part_names(snapshot: Snapshot, entry: ShardEntry) -> list[str]:
    """Return the parts whose documents a shard may hold."""
    return parts_by_delivery(snapshot).get((entry.snapshot, entry.source), [])


def tokens_path(part: str) -> str:
    """Return where the tokens of a part lie below the snapshot."""
    return f"tokens/{part}.arrow"


def find_range(hashes: npt.NDArray[np.uint64], low: int, high: int) -> tuple[int, int]:
    """Return where the hashes of a range begin and end among sorted ones."""
    stop = len(hashes) if high == HASH_SPACE else int(np.searchsorted(hashes, np.uint64(high)))
    return int(np.searchsorted(hashes, np.uint64(low))), stop


def documents_in(
    tree: Tree, parts: Sequence[str], low: int, high: int, numbers: Iterable[int] | None = None
) -> list[Held]:
    """Return the documents of a hash range in packing order, or those of them with some numbers.

    `FileNotFoundError` where the tokens of a part are not there, `ValueError` where they are
    damaged, `IndexError` for a number that no document has.
    """
    columns: list[pa.ChunkedArray] = []
    found = [np.empty((3, 0), np.uint64)]
    for part in parts:
        ids, hashes = _open_ids(tree.find(tokens_path(part)))
        start, stop = find_range(hashes, low, high)
        rows = np.arange(stop - start, dtype=np.uint64)
        found.append(np.stack([hashes[start:stop], np.full_like(rows, len(columns)), rows]))
        columns.append(ids.slice(start, stop - start))
    hashes, owners, rows = np.concatenate(found, axis=1)

    def id_of(at: int) -> str:
        return str(columns[owners[at]][int(rows[at])])

    order = np.argsort(hashes, kind="stable")
    if (hashes[order[1:]] == hashes[order[:-1]]).any():  # of one hash: in the order of their ids
        order = np.array(sorted(order.tolist(), key=lambda at: (hashes[at], id_of(at))))
    if numbers is None:
        every = [identity for column in columns for identity in column.to_pylist()]
        return [Held(every[at], parts[owners[at]]) for at in order.tolist()]
    wanted = list(numbers)
    outside = [number for number in wanted if not 0 <= number < len(order)]
    if outside:
        raise IndexError(f"the range holds {len(order)} documents, none has number {outside[0]}")
    return [Held(id_of(at), parts[owners[at]]) for at in order[wanted].tolist()]


def documents_of(
    tree: Tree, snapshot: Snapshot, entry: ShardEntry, numbers: Iterable[int] | None = None
) -> list[Held]:
    """Return a shard's documents in packing order, or those with some numbers.

    Raises what `documents_in` raises; a number that no document has is a `ValueError` here.
    """
    plan = shard_plan(snapshot, entry)
    try:
        return documents_in(tree, part_names(snapshot, entry), plan.low, plan.high, numbers)
    except IndexError:
        raise ValueError(
            f"{entry.path} has rows of more documents than its tokens files hold: run "
            "`python -m pipeline audit STORE`"
        ) from None


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not there") from None
    except RemoteError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): delete its snapshot's directory and refresh again"
        ) from error


def _open_ids(path: str) -> tuple[pa.ChunkedArray, npt.NDArray[np.uint64]]:
    """Open a tokens file; return the ids and the hashes in it, mapped where the file is local."""
    # Without threads of Arrow's own, which have nothing to decode here: see pipeline/stretch.py.
    options = pa.ipc.IpcReadOptions(included_fields=list(_WHOSE), use_threads=False)
    with _damage_named(path):
        source = pa.PythonFile(open_reader(path), "r") if is_remote(path) else pa.memory_map(path)
        table = pa.ipc.open_file(source, options=options).read_all()
    return table["id"], table["hash"].to_numpy()


def read_urls(tree: Tree, documents: Iterable[Held]) -> dict[str, str]:
    """Return the addresses of kept documents, by id, of those that have one.

    `FileNotFoundError` where the documents of a part are not there, `ValueError` where they are
    damaged.
    """
    by_part: dict[str, set[str]] = defaultdict(set)
    for each in documents:
        by_part[each.part].add(each.id)
    found: dict[str, str] = {}
    for part, ids in by_part.items():
        columns = ["id", "url", "file", "position"]
        rows = _rows_of(tree.find(f"clean/{part}.parquet"), columns, ids)
        if len(rows) > len(ids):  # some were dropped in favour of another with the same id
            places = ["id", "file", "position"]
            gone = _rows_of(tree.find(f"duplicates/{part}.parquet"), places, ids)
            rows = [row for row in rows if {name: row[name] for name in places} not in gone]
        found |= {row["id"]: row["url"] for row in rows if row["url"] is not None}
    return found


def _rows_of(path: str, columns: list[str], ids: set[str]) -> list[dict[str, Any]]:
    """Read some columns of the rows with these ids; row groups that cannot have one stay closed."""
    with _damage_named(path), open_reader(path) as source:
        filters = [("id", "in", sorted(ids))]
        table = pq.read_table(source, columns=columns, filters=filters, use_threads=False)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
