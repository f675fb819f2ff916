"""Snapshots: the manifest that says what a store holds, and the fingerprint that names it.

`snapshot.json` is written last: it exists exactly when the snapshot is complete. The fingerprint
covers what training can see and why the rest is gone (label, format version, sequence length,
tokenizer, checksums of the shards in order, digests of the kept and dropped rows); recipe, code and
library versions, partitions, paths and times are recorded beside it, outside it.
"""

import hashlib
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from corpus.files import create, exists, join, read_bytes, write_bytes

FORMAT_VERSION = 1
_MANIFEST = "snapshot.json"


class ShardEntry(BaseModel):
    """One shard as the manifest lists it; `path` is relative to the snapshot's directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    source: str
    split: str
    rows: int
    tokens: int
    size_bytes: int
    checksum: str


class FileEntry(BaseModel):
    """One other file of the snapshot; `path` is relative to the snapshot's directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    size_bytes: int
    checksum: str


class Input(BaseModel):
    """One raw file: known by (name, size, checksum); `path` says where it lay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    name: str
    format: str
    size_bytes: int
    checksum: str
    path: str


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
    format_version: int
    sequence_length: int
    tokenizer: str
    vocab_size: int
    shards: tuple[ShardEntry, ...]
    kept_digest: str
    dropped_digest: str
    fingerprint: str
    counts: Counts
    files: tuple[FileEntry, ...]
    inputs: tuple[Input, ...]
    recipe: dict[str, Any]
    made_with: dict[str, Any]

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


def find_snapshot(store: str, label: str) -> Snapshot | None:
    """Open a snapshot, or return None where it is not there or not complete."""
    path = join(snapshot_root(store, label), _MANIFEST)
    if not exists(path):
        return None
    try:
        snapshot = Snapshot.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if snapshot.format_version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {snapshot.format_version}, expected {FORMAT_VERSION}: "
            "rebuild the store with this version"
        )
    found = snapshot.compute_fingerprint()
    if found != snapshot.fingerprint:
        raise ValueError(
            f"{path} is damaged: its content gives fingerprint {found}, "
            f"it says {snapshot.fingerprint}"
        )
    return snapshot


def open_snapshot(store: str, label: str | None = None) -> Snapshot:
    """Open a snapshot by label, or the newest one; `ValueError` says what is there instead."""
    wanted = label or newest_label(store)
    if wanted is None:
        raise ValueError(f"{store} holds no complete snapshot: run `python -m pipeline refresh`")
    snapshot = find_snapshot(store, wanted)
    if snapshot is None:
        raise ValueError(
            f"{store} holds no complete snapshot {wanted}; its newest is {newest_label(store)}"
        )
    return snapshot


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
