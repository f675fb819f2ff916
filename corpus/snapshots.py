"""Snapshots: the manifest that says what a store holds, and the fingerprint that names it.

`snapshot.json` is written last: it exists exactly when the snapshot is complete. A snapshot is the
whole corpus as of its label: what it delivered itself and what its parent held. Its manifest lists
all files of that corpus, each with its home, the snapshot in whose directory it lies, so that one
manifest is enough to read everything and no file is ever copied.

The fingerprint covers what training can see and why the rest is gone (label, format version,
sequence length, tokenizer, checksums of the shards in order, digests of the kept and dropped rows);
recipe, code and library versions, partitions, paths, homes and times are recorded beside it,
outside it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from corpus.files import create, exists, join, list_folders, read_bytes, write_bytes
from corpus.records import AUTO, UTF_8, ReadOptions

FORMAT_VERSION = 2
_MANIFEST = "snapshot.json"
_WITHDRAWN = "withdrawn.json"
# Where `made_with` names the list of take-downs (corpus/forgotten.py) that a snapshot obeys.
OBEYS = "forgotten"


@dataclass(frozen=True)
class Tree:
    """Where the files of a snapshot lie: in its own directory, or in those of earlier ones."""

    root: str
    homes: Mapping[str, str] = field(default_factory=dict)  # file -> directory, where not its own

    def find(self, name: str) -> str:
        """Return the path to read a file from."""
        return join(self.homes.get(name, self.root), name)

    def own(self, name: str) -> str:
        """Return the path to write a file to."""
        return join(self.root, name)

    def renewed(self, names: Iterable[str]) -> "Tree":
        """Return a tree that reads these files from its own directory."""
        return Tree(self.root, {k: v for k, v in self.homes.items() if k not in set(names)})


class Part(NamedTuple):
    """Some documents of one source and delivery: the unit in which tables lie on disk.

    `position` is the place of the snapshot that delivered them in the order of deliveries.
    """

    name: str
    source: str
    snapshot: str
    position: int


class ShardEntry(BaseModel):
    """One shard: `snapshot` delivered its documents, in the directory of `home` it lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    home: str
    snapshot: str
    source: str
    split: str
    rows: int
    tokens: int
    size_bytes: int
    checksum: str


class FileEntry(BaseModel):
    """One other file; `path` is relative to the directory of the snapshot `home`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    home: str
    size_bytes: int
    checksum: str


class PartEntry(BaseModel):
    """What became of the records of a part: counts, and digests of kept and dropped rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    source: str
    snapshot: str
    documents: int
    kept: int
    text_bytes: int
    words: int = 0
    tokens: int
    dropped: dict[str, int]
    kept_digest: str
    dropped_digest: str


class Input(BaseModel):
    """One raw file: known by (name, size, checksum); `path` says where it lay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    snapshot: str
    source: str
    name: str
    format: str
    options: ReadOptions = ReadOptions()
    size_bytes: int
    checksum: str
    path: str

    @property
    def identity(self) -> tuple[str, str, str, str, int, str]:
        """What makes it the same input when it is delivered again."""
        # A key that came later counts where it says something: inputs of older stores keep theirs.
        later = {
            name
            for name, none in (("encoding", UTF_8), ("members", AUTO))
            if getattr(self.options, name) == none
        }
        options = self.options.model_dump_json(exclude=later)
        return self.source, self.name, self.format, options, self.size_bytes, self.checksum


class Counts(BaseModel):
    """What came in and what became of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents_in: int
    documents_kept: int
    documents_dropped: dict[str, int]
    tokens: int
    sequences: int


class Snapshot(BaseModel):
    """The manifest of one complete snapshot."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str
    parent: str | None
    deliveries: tuple[str, ...]
    format_version: int
    sequence_length: int
    tokenizer: str
    vocab_size: int
    shards: tuple[ShardEntry, ...]
    parts: tuple[PartEntry, ...]
    kept_digest: str
    dropped_digest: str
    fingerprint: str
    counts: Counts
    files: tuple[FileEntry, ...]
    inputs: tuple[Input, ...]
    recipe: dict[str, Any]
    made_with: dict[str, Any]

    def tree(self, store: str) -> Tree:
        """Return where the files of this snapshot lie."""
        homes = {each.path: each.home for each in self.all_files if each.home != self.label}
        roots = {home: snapshot_root(store, home) for home in set(homes.values())}
        return Tree(
            snapshot_root(store, self.label), {path: roots[home] for path, home in homes.items()}
        )

    @property
    def all_files(self) -> list[FileEntry | ShardEntry]:
        """Every file of the corpus, shards included."""
        return [*self.files, *self.shards]

    def part_list(self) -> tuple[Part, ...]:
        """Return all parts in the order of deliveries, by name within one."""
        return tuple(
            Part(each.name, each.source, each.snapshot, self.deliveries.index(each.snapshot))
            for each in self.parts
        )

    def compute_fingerprint(self) -> str:
        """Hash what the snapshot means, nothing of how it was made: SHA-256 in hexadecimal."""
        meaning = {
            "label": self.label,
            "format_version": self.format_version,
            "sequence_length": self.sequence_length,
            "tokenizer": self.tokenizer,
            "shards": [shard.checksum for shard in self.shards],
            "kept": self.kept_digest,
            "dropped": self.dropped_digest,
        }
        return hashlib.sha256(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS)).hexdigest()


def snapshot_root(store: str, label: str) -> str:
    """Return the directory of a snapshot."""
    return join(store, "snapshots", label)


def tokenizer_root(store: str, fingerprint: str) -> str:
    """Return the directory of a tokenizer."""
    return join(store, "tokenizer", fingerprint)


def newest_label(store: str) -> str | None:
    """Return the label that HEAD names, or None in an empty store."""
    head = join(store, "HEAD")
    return read_bytes(head).decode().strip() if exists(head) else None


def list_snapshots(store: str) -> list[str]:
    """Return the labels of all complete snapshots, withdrawn ones too.

    A store holds some ten files a part: they are not listed for it.
    """
    labels = list_folders(join(store, "snapshots"))
    return [label for label in labels if exists(join(snapshot_root(store, label), _MANIFEST))]


def withdraw(store: str, label: str, successor: str) -> None:
    """Mark a snapshot as taken back: from now on it names its successor and does not open."""
    data = orjson.dumps({"successor": successor})
    create(join(snapshot_root(store, label), _WITHDRAWN), data)


def is_withdrawn(store: str, label: str) -> bool:
    """Tell whether a snapshot was taken back."""
    return exists(join(snapshot_root(store, label), _WITHDRAWN))


def find_snapshot(store: str, label: str) -> Snapshot | None:
    """Open a snapshot, or return None where it is not there or not complete.

    `ValueError` names the successor of a withdrawn one.
    """
    notice = join(snapshot_root(store, label), _WITHDRAWN)
    if exists(notice):
        successor = orjson.loads(read_bytes(notice))["successor"]
        raise ValueError(
            f"snapshot {label} was withdrawn, as documents were taken down: use its successor "
            f"{successor}"
        )
    return read_manifest(store, label)


def read_manifest(store: str, label: str) -> Snapshot | None:
    """Read the manifest of a snapshot, withdrawn or not, or None where there is none."""
    path = join(snapshot_root(store, label), _MANIFEST)
    if not exists(path):
        return None
    try:
        fields: Any = orjson.loads(read_bytes(path))
        if (version := fields["format_version"]) != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {version}, expected {FORMAT_VERSION}: "
                "rebuild the store with this version"
            )
        snapshot = Snapshot.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path} is damaged: {place}: {first['msg']}") from None
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    found = snapshot.compute_fingerprint()
    if found != snapshot.fingerprint:
        raise ValueError(
            f"{path} is damaged: its content gives fingerprint {found}, "
            f"it says {snapshot.fingerprint}"
        )
    return snapshot


def open_snapshot(store: str, label: str | None = None) -> Snapshot:
    """Open a snapshot by label, or the newest one; `ValueError` says what is there instead."""
    wanted = newest_label(store) if label is None else label
    snapshot = None if wanted is None else find_snapshot(store, wanted)
    if snapshot is not None:
        return snapshot
    newest = newest_label(store)
    if newest is None:
        raise ValueError(
            f"{store} holds no complete snapshot: run `python -m pipeline refresh RECIPE`"
        )
    raise ValueError(f"{store} holds no complete snapshot {wanted}; its newest is {newest}")


def overdue_takedowns(store: str, snapshot: Snapshot) -> str | None:
    """Say that a snapshot may hold what was taken down since; None where it holds none of it."""
    label = newest_label(store)
    newest = None if label in (None, snapshot.label) else read_manifest(store, str(label))
    obeyed = newest and newest.made_with.get(OBEYS)
    if newest is None or obeyed in (None, snapshot.made_with.get(OBEYS)):
        return None
    return (
        f"snapshot {snapshot.label} does not obey the take-downs of {store}: {newest.label} does, "
        "train on that"
    )


def commit_snapshot(store: str, snapshot: Snapshot) -> None:
    """Write the manifest, which completes the snapshot, and point HEAD at it."""
    manifest = orjson.dumps(
        snapshot.model_dump(), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS
    )
    create(join(snapshot_root(store, snapshot.label), _MANIFEST), manifest)
    write_head(store, snapshot.label)


def write_head(store: str, label: str) -> None:
    """Make `label` the newest one."""
    write_bytes(join(store, "HEAD"), label.encode() + b"\n")
