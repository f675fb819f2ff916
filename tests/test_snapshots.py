"""The fingerprint covers what a snapshot means and nothing of how it was made."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import ValidationError

from corpus.files import join, list_names, read_bytes, write_bytes
from corpus.records import ReadOptions
from corpus.snapshots import (
    FORMAT_VERSION,
    Counts,
    FileEntry,
    Input,
    Part,
    PartEntry,
    ShardEntry,
    Snapshot,
    Tree,
    commit_snapshot,
    find_snapshot,
    list_snapshots,
    newest_label,
    open_snapshot,
    overdue_takedowns,
    snapshot_root,
    tokenizer_root,
    write_head,
)


def shard(number: int, **changes: Any) -> ShardEntry:  # noqa: ANN401 - fields differ in type
    fields = {
        "path": f"shards/first/a/train-{number:05d}.arrow", "home": "first", "snapshot": "first",
        "source": "a", "split": "train", "rows": 3, "tokens": 20, "size_bytes": 100,
        "checksum": f"{number}" * 64,
    } | changes  # fmt: skip
    return ShardEntry(**fields)


def part(name: str = "a-0-00000", **changes: Any) -> PartEntry:  # noqa: ANN401 - fields differ in type
    fields = {
        "name": name, "source": "a", "snapshot": "first", "documents": 2, "kept": 1,
        "text_bytes": 9, "tokens": 40, "dropped": {"exact": 1}, "kept_digest": "a" * 64,
        "dropped_digest": "b" * 64,
    } | changes  # fmt: skip
    return PartEntry(**fields)


def raw_input(**changes: Any) -> Input:  # noqa: ANN401 - fields differ in type
    fields = {
        "snapshot": "first", "source": "a", "name": "n", "format": "text", "size_bytes": 1,
        "checksum": "d" * 64, "path": "/n",
    } | changes  # fmt: skip
    return Input(**fields)


def make(**changes: Any) -> Snapshot:  # noqa: ANN401 - fields differ in type
    fields: dict[str, Any] = {
        "label": "first", "parent": None, "deliveries": ("first",),
        "format_version": FORMAT_VERSION, "sequence_length": 512,
        "tokenizer": "t" * 64, "vocab_size": 300, "shards": (shard(0), shard(1)),
        "parts": (part(),),
        "kept_digest": "a" * 64, "dropped_digest": "b" * 64, "fingerprint": "",
        "counts": Counts(documents_in=2, documents_kept=1, documents_dropped={"exact": 1},
                         tokens=40, sequences=6),
        "files": (
            FileEntry(path="clean/x.parquet", home="first", size_bytes=1, checksum="c" * 64),
        ),
        "inputs": (raw_input(),),
        "recipe": {"store": "/s"}, "made_with": {"python": "3"},
    }  # fmt: skip
    snapshot = Snapshot(**(fields | changes))
    return snapshot.model_copy(update={"fingerprint": snapshot.compute_fingerprint()})


def test_golden_fingerprint() -> None:
    """Stores and checkpoints name snapshots by this value: it changes only with the format."""
    assert make().fingerprint == "b40a9ff01ea674e79156a921d998bd466ccb168b2571aea5355986e9551368f9"


MEANING: dict[str, Any] = {
    "label": "second",
    "format_version": FORMAT_VERSION + 1,
    "sequence_length": 128,
    "tokenizer": "u" * 64,
    "kept_digest": "c" * 64,
    "dropped_digest": "c" * 64,
}
MAKING: dict[str, Any] = {
    "parent": "zeroth",
    "deliveries": ("zeroth", "first"),
    "parts": (),
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
    moved = shard(
        1, path="elsewhere", home="second", snapshot="second", source="b", split="validation",
        rows=9, size_bytes=8,
    )  # fmt: skip
    assert make(shards=(shard(0), moved)).fingerprint == fingerprint


def test_a_committed_snapshot_is_found(tmp_path: Path) -> None:
    store = str(tmp_path)
    assert newest_label(store) is None
    assert find_snapshot(store, "first") is None
    for label in (None, "first"):
        with pytest.raises(ValueError, match="no complete snapshot: run `python -m pipeline refr"):
            open_snapshot(store, label)
    commit_snapshot(store, make())
    assert newest_label(store) == "first"
    assert find_snapshot(store, "first") == open_snapshot(store) == make()
    assert list_names(store) == ["HEAD", "snapshots/first/snapshot.json"]
    commit_snapshot(store, make(label="second"))
    assert open_snapshot(store).label == "second"
    assert open_snapshot(store, "first") == make()
    with pytest.raises(ValueError, match="no complete snapshot third; its newest is second"):
        open_snapshot(store, "third")


def test_a_snapshot_that_older_take_downs_left_is_told_from_the_newest(tmp_path: Path) -> None:
    store = str(tmp_path)
    first, second = make(), make(label="second", made_with={"python": "4"})
    commit_snapshot(store, first)
    assert overdue_takedowns(store, first) is None
    commit_snapshot(store, second)
    assert overdue_takedowns(store, first) is None  # nothing was ever taken down
    third = make(label="third", made_with={"forgotten": "a"})
    commit_snapshot(store, third)
    told = f"second does not obey the take-downs of {store}: third does"
    assert told in (overdue_takedowns(store, second) or "")
    commit_snapshot(store, make(label="fourth", made_with={"forgotten": "a"}))
    assert overdue_takedowns(store, third) is None
    commit_snapshot(store, make(label="fifth", made_with={"forgotten": "b"}))
    assert "third does not obey" in (overdue_takedowns(store, third) or "")


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
        (b'"format_version": 2', b'"format_version": 3', "format version 3, expected 2"),
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


def test_files_are_read_where_they_lie_and_written_at_home() -> None:
    tree = Tree("/s/snapshots/third", {"clean/a": "/s/snapshots/first", "b": "/s/snapshots/second"})
    assert tree.find("clean/a") == "/s/snapshots/first/clean/a"
    assert tree.find("b") == "/s/snapshots/second/b"
    assert tree.find("clean/c") == tree.own("clean/c") == "/s/snapshots/third/clean/c"
    assert tree.own("clean/a") == "/s/snapshots/third/clean/a"
    renewed = tree.renewed(["clean/a", "clean/c"])
    assert renewed.find("clean/a") == "/s/snapshots/third/clean/a"
    assert (renewed.find("b"), renewed.own("b")) == (tree.find("b"), tree.own("b"))
    assert tree.find("clean/a") == "/s/snapshots/first/clean/a"


def test_the_manifest_says_where_the_files_of_its_parent_lie() -> None:
    old, new = shard(0), shard(1, path="shards/second/a/train-00000.arrow", home="second")
    kept, fresh = (
        FileEntry(path=f"clean/{home}", home=home, size_bytes=1, checksum="c" * 64)
        for home in ("first", "second")
    )
    snapshot = make(
        label="second", deliveries=("first", "second"), shards=(old, new), files=(kept, fresh)
    )
    assert snapshot.all_files == [kept, fresh, old, new]
    assert snapshot.tree("/s") == Tree(
        "/s/snapshots/second", dict.fromkeys([kept.path, old.path], "/s/snapshots/first")
    )
    assert make().tree("/s") == Tree("/s/snapshots/first")


def test_parts_know_the_place_of_their_delivery() -> None:
    parts = (part("z"), part("b", snapshot="second"), part("c", source="d", snapshot="second"))
    snapshot = make(label="second", deliveries=("zeroth", "first", "second"), parts=parts)
    assert snapshot.part_list() == (
        Part("z", "a", "first", 1), Part("b", "a", "second", 2), Part("c", "d", "second", 2),
    )  # fmt: skip


def test_an_input_is_the_same_wherever_it_lies_and_whoever_brings_it() -> None:
    same = raw_input(snapshot="second", path="/elsewhere/n")
    assert same.identity == raw_input().identity
    for field, value in (
        ("source", "b"), ("name", "m"), ("format", "jsonl"), ("size_bytes", 2),
        ("checksum", "e" * 64),
    ):  # fmt: skip
        assert raw_input(**{field: value}).identity != raw_input().identity


def test_a_snapshot_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make().label = "x"  # type: ignore[misc]


def test_inputs_of_stores_from_before_encodings_keep_their_names() -> None:
    fields: dict[str, Any] = {
        "snapshot": "s", "source": "a", "name": "f.txt", "format": "text", "size_bytes": 1,
        "checksum": "0", "path": "/f.txt",
    }  # fmt: skip
    plain, said = Input(**fields), Input(**fields, options=ReadOptions(encoding="utf-8"))
    assert plain.identity == said.identity
    assert "encoding" not in plain.identity[3]
    other = Input(**fields, options=ReadOptions(encoding="latin-1"))
    assert '"encoding":"latin-1"' in other.identity[3]


@pytest.mark.parametrize("protocol", ["", "memory://"])
def test_snapshots_are_listed_without_the_files_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """Every command lists them, and a store of 150,000 parts holds over a million files."""
    store = f"{protocol}{tmp_path}/store"
    assert list_snapshots(store) == []
    for name in ("b/snapshot.json", "a/snapshot.json", "a/clean/x/snapshot.json", "c/stats.json"):
        write_bytes(join(store, "snapshots", name), b"{}")
    write_bytes(join(store, "snapshots", "snapshot.json"), b"{}")
    for filesystem in (LocalFileSystem, MemoryFileSystem):
        monkeypatch.setattr(filesystem, "find", lambda *_, **__: pytest.fail("all files listed"))
    assert list_snapshots(store) == ["a", "b"]
