"""The fingerprint covers what a snapshot means and nothing of how it was made."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from corpus.files import join, list_names, read_bytes, write_bytes
from corpus.snapshots import (
    FORMAT_VERSION,
    Counts,
    FileEntry,
    Input,
    ShardEntry,
    Snapshot,
    commit_snapshot,
    find_snapshot,
    newest_label,
    open_snapshot,
    snapshot_root,
    tokenizer_root,
    write_head,
)


def shard(number: int, **changes: Any) -> ShardEntry:  # noqa: ANN401 - fields differ in type
    fields = {
        "path": f"shards/a/train-{number:05d}.arrow", "source": "a", "split": "train", "rows": 3,
        "tokens": 20, "size_bytes": 100, "checksum": f"{number}" * 64,
    } | changes  # fmt: skip
    return ShardEntry(**fields)


def make(**changes: Any) -> Snapshot:  # noqa: ANN401 - fields differ in type
    fields: dict[str, Any] = {
        "label": "first", "format_version": FORMAT_VERSION, "sequence_length": 512,
        "tokenizer": "t" * 64, "vocab_size": 300, "shards": (shard(0), shard(1)),
        "kept_digest": "a" * 64, "dropped_digest": "b" * 64, "fingerprint": "",
        "counts": Counts(documents_in=2, documents_kept=1, documents_dropped={"exact": 1},
                         tokens=40, sequences=6),
        "files": (FileEntry(path="clean/x.parquet", size_bytes=1, checksum="c" * 64),),
        "inputs": (Input(source="a", name="n", format="text", size_bytes=1, checksum="d" * 64,
                         path="/n"),),
        "recipe": {"store": "/s"}, "made_with": {"python": "3"},
    }  # fmt: skip
    snapshot = Snapshot(**(fields | changes))
    return snapshot.model_copy(update={"fingerprint": snapshot.compute_fingerprint()})


def test_golden_fingerprint() -> None:
    """Stores and checkpoints name snapshots by this value: it changes only with the format."""
    assert make().fingerprint == "115cfb425d4c8af8f37cda30ced00d7663d137c228accc3f6cada7af65378392"


MEANING: dict[str, Any] = {
    "label": "second",
    "format_version": 2,
    "sequence_length": 128,
    "tokenizer": "u" * 64,
    "kept_digest": "c" * 64,
    "dropped_digest": "c" * 64,
}
MAKING: dict[str, Any] = {
    "vocab_size": 301,
    "counts": Counts(documents_in=3, documents_kept=3, documents_dropped={}, tokens=1, sequences=1),
    "files": (),
    "inputs": (),
    "recipe": {"workers": 7},
    "made_with": {},
}


@pytest.mark.parametrize("field", MEANING)
def test_the_fingerprint_sees_what_a_snapshot_means(field: str) -> None:
    assert make(**{field: MEANING[field]}).fingerprint != make().fingerprint


@pytest.mark.parametrize("field", MAKING)
def test_the_fingerprint_does_not_see_how_it_was_made(field: str) -> None:
    assert make(**{field: MAKING[field]}).fingerprint == make().fingerprint


def test_every_field_is_on_one_side() -> None:
    assert {*MEANING, *MAKING, "shards", "fingerprint"} == set(Snapshot.model_fields)


def test_of_shards_the_fingerprint_sees_checksums_in_order() -> None:
    fingerprint = make().fingerprint
    for shards in (
        (shard(1), shard(0)),
        (shard(0),),
        (shard(0), shard(1), shard(1)),
        (shard(0), shard(1, checksum="0" * 64)),
    ):
        assert make(shards=shards).fingerprint != fingerprint
    moved = shard(1, path="elsewhere", source="b", split="validation", rows=9, size_bytes=8)
    assert make(shards=(shard(0), moved)).fingerprint == fingerprint


def test_a_committed_snapshot_is_found(tmp_path: Path) -> None:
    store = str(tmp_path)
    assert newest_label(store) is None
    assert find_snapshot(store, "first") is None
    with pytest.raises(ValueError, match="holds no complete snapshot: run `python -m pipeline ref"):
        open_snapshot(store)
    commit_snapshot(store, make())
    assert newest_label(store) == "first"
    assert find_snapshot(store, "first") == open_snapshot(store) == make()
    assert list_names(store) == ["HEAD", "snapshots/first/snapshot.json"]
    commit_snapshot(store, make(label="second"))
    assert open_snapshot(store).label == "second"
    assert open_snapshot(store, "first") == make()
    with pytest.raises(ValueError, match="no complete snapshot third; its newest is second"):
        open_snapshot(store, "third")


def test_committing_again_changes_nothing(tmp_path: Path) -> None:
    store = str(tmp_path)
    commit_snapshot(store, make())
    path = join(snapshot_root(store, "first"), "snapshot.json")
    before = read_bytes(path)
    commit_snapshot(store, make(made_with={"python": "4"}))
    assert read_bytes(path) == before


def test_the_snapshot_counts_though_head_is_missing(tmp_path: Path) -> None:
    """The manifest completes a snapshot; HEAD only says which is the newest."""
    store = str(tmp_path)
    commit_snapshot(store, make())
    Path(join(store, "HEAD")).unlink()
    assert find_snapshot(store, "first") == make()
    write_head(store, "first")
    assert open_snapshot(store) == make()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b'"sequence_length": 512', b'"sequence_length": 513', "its content gives fingerprint"),
        (b'"label": "first"', b'"label": "worst"', "its content gives fingerprint"),
        (b'"00000', b'"00001', "its content gives fingerprint"),
        (b'"label"', b'"lable"', "is damaged: .*label"),
        (b'"vocab_size": 300', b'"vocab_size": "x"', "is damaged: .*vocab_size"),
        (b'"format_version": 1', b'"format_version": 2', "format version 2, expected 1"),
        (b"}", b"", "is damaged"),
    ],
)
def test_a_damaged_manifest_is_named(tmp_path: Path, old: bytes, new: bytes, message: str) -> None:
    commit_snapshot(str(tmp_path), make())
    path = str(tmp_path / "snapshots" / "first" / "snapshot.json")
    content = read_bytes(path)
    assert old in content
    write_bytes(path, content.replace(old, new, 1) if new else content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"(?s)snapshot\.json.*{message}"):
        find_snapshot(str(tmp_path), "first")


def test_unknown_keys_of_a_manifest_are_refused(tmp_path: Path) -> None:
    commit_snapshot(str(tmp_path), make())
    path = str(tmp_path / "snapshots" / "first" / "snapshot.json")
    write_bytes(path, orjson.dumps(orjson.loads(read_bytes(path)) | {"more": 1}))
    with pytest.raises(ValueError, match=r"(?s)snapshot\.json is damaged: .*more"):
        find_snapshot(str(tmp_path), "first")


def test_a_label_cannot_climb_out_of_the_store() -> None:
    for wanted in ("../other", "/etc"):
        with pytest.raises(ValueError, match="is not a name below"):
            snapshot_root("/store", wanted)
    assert snapshot_root("s3://b/s", "one") == "s3://b/s/snapshots/one"
    assert tokenizer_root("/s", "f") == "/s/tokenizer/f"


def test_a_snapshot_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make().label = "x"  # type: ignore[misc]
