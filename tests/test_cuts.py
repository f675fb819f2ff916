"""A large file is read by several tasks, small ones by one, and nothing of it shows."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from chain_helpers import prepare
from corpus_helpers import make_documents, write_corpus
from hypothesis import given
from hypothesis import strategies as st
from stage_helpers import table_rows
from test_members import PACK

from corpus.forgotten import Forgotten, hash_id
from corpus.members import META_KEY
from corpus.recipe import load_recipe
from corpus.snapshots import Input, Snapshot, open_snapshot
from pipeline import cuts
from pipeline.dedup_report import duplicates
from pipeline.explain import explain, open_store
from pipeline.proofs import audit
from pipeline.purge import out_of_reach
from pipeline.refresh import refresh
from pipeline.survey import survey
from pipeline.tallies import read_stats


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    prepare(monkeypatch)


def in_frames(path: Path) -> None:
    """Compress a file as zstd frames of a few lines each, so that it can be split."""
    lines = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().splitlines(True)
    frames = [b"".join(lines[start : start + 7]) for start in range(0, len(lines), 7)]
    path.write_bytes(b"".join(map(zstandard.ZstdCompressor().compress, frames)))


def write_in_frames(directory: Path, files: int) -> None:
    """Write a corpus whose compressed files can be split."""
    write_corpus(directory, files=files, documents=60)
    for path in sorted((directory / "raw").rglob("*.jsonl.zst")):
        in_frames(path)


def build(directory: Path, store: str) -> Snapshot:
    recipe = load_recipe(str(directory / "recipe.yaml"), [f"store={directory / store}"])
    return refresh(recipe).snapshot


def test_pieces_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_in_frames(tmp_path, files=4)
    whole = build(tmp_path, "whole")
    monkeypatch.setattr(cuts, "PIECE_BYTES", 3000)
    split = build(tmp_path, "split")
    assert len(split.parts) > 2 * len(whole.parts)
    assert split.fingerprint == whole.fingerprint
    assert split.counts == whole.counts
    assert [each.checksum for each in split.shards] == [each.checksum for each in whole.shards]
    # The audit cuts every file at other places and finds the same rows.
    assert audit(open_store(str(tmp_path / "split"))).problems == []


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_gives_the_shards_of_its_unpacked_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Read whole and in pieces; the audit cuts it at other places."""
    write_corpus(tmp_path, files=4, documents=60)
    plain = build(tmp_path, "plain")
    for source in sorted((tmp_path / "raw").iterdir()):
        names = sorted(path for path in source.rglob("*") if path.is_file())
        files = {str(path.relative_to(source)): path.read_bytes() for path in names}
        shutil.rmtree(source)
        source.mkdir()
        (source / f"all.{kind}").write_bytes(PACK[kind](files))
    packed = build(tmp_path, "packed")
    monkeypatch.setattr(cuts, "PIECE_BYTES", 3000)
    split = build(tmp_path, "split")
    assert len(split.parts) > len(packed.parts)
    assert split.fingerprint == packed.fingerprint != plain.fingerprint  # names of files differ
    shards = [[each.checksum for each in found.shards] for found in (plain, packed, split)]
    assert shards[0] == shards[1] == shards[2]
    assert packed.counts == plain.counts
    store = open_store(str(tmp_path / "split"))
    assert audit(store).problems == []
    (row, *_) = table_rows(store.tree.find(f"clean/{split.parts[0].name}.parquet"))
    assert f"record {row['position']}, {json.loads(row['meta'])[META_KEY]})" in "".join(
        explain(store, row["id"])
    )


def test_a_large_file_that_changed_stops_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path, files=2, documents=60)
    monkeypatch.setattr(cuts, "PIECE_BYTES", 3000)
    build(tmp_path, "store")
    (source, *_) = open_snapshot(str(tmp_path / "store")).inputs
    changed = source.model_copy(update={"checksum": "0" * 64})
    with pytest.raises(ValueError, match="changed since it was listed: its checksum was 0000"):
        cuts.survey_file(None, "task", changed, 1000)  # type: ignore[arg-type]


def test_a_large_file_that_changed_or_is_gone_is_told_by_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path, files=3, documents=60)
    store = open_store(build(tmp_path, "store").recipe["store"])
    monkeypatch.setattr(cuts, "PIECE_BYTES", 3000)
    (first, second, *_) = store.snapshot.inputs
    assert first.size_bytes > 3000 < second.size_bytes
    Path(first.path).write_bytes(Path(second.path).read_bytes())
    Path(second.path).unlink()
    assert audit(store) == (
        [],
        [
            f"{first.source}: {first.name} is another file by now",
            f"{second.source}: {second.name} is not at {second.path} any more",
        ],
    )


def test_a_record_lost_at_a_cut_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever begins a piece loses its first record: the audit too, but at other cuts."""
    write_in_frames(tmp_path, files=2)
    monkeypatch.setattr(cuts, "PIECE_BYTES", 3000)
    read = cuts.Cut.read

    def lose_one(cut: cuts.Cut, max_record_bytes: int) -> Iterator[cuts.Read]:
        records = read(cut, max_record_bytes)
        if cut.given is not None and cut.given[0]:
            next(records)
        yield from records

    monkeypatch.setattr(cuts.Cut, "read", lose_one)
    store = open_store(build(tmp_path, "store").recipe["store"])
    found = [each for each in audit(store).problems if "read again gives other" in each]
    large = {e.name for e in store.snapshot.inputs if e.size_bytes > 3000}
    can_be_cut = {name for name in large if not name.endswith(".gz")}  # too short, of one member
    assert {each.partition(" read again")[0].split(": ")[1] for each in found} == can_be_cut
    assert can_be_cut


def test_a_record_lost_whatever_the_cuts_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reads pieces loses the end of the last one: both give the same rows."""
    write_in_frames(tmp_path, files=2)
    monkeypatch.setattr(cuts, "PIECE_BYTES", 3000)
    read = cuts.Cut.read

    def lose_the_last(cut: cuts.Cut, max_record_bytes: int) -> Iterator[cuts.Read]:
        records = list(read(cut, max_record_bytes))
        is_last = cut.given is not None and cut.given[0] and cut.given[1].length is None
        yield from records[:-1] if is_last else records

    monkeypatch.setattr(cuts.Cut, "read", lose_the_last)
    store = open_store(build(tmp_path, "store").recipe["store"])
    found = audit(store).problems
    assert all(
        each.endswith("has other records when it is read whole than in pieces") for each in found
    )
    assert len(found) == 3


def write_small(directory: Path, files: int) -> Path:
    """Write many files of a few records of two sources, one of them broken; return the recipe."""
    path = write_corpus(directory, files=2, documents=40)
    for number in range(files):
        folder = directory / "raw" / ("books" if number % 3 else "news")
        lines = [json.dumps(document) for document in make_documents(number % 9, 4)]
        if number == 7:
            lines[1] = "{"
        (folder / f"small-{number:03d}.jsonl").write_text("\n".join(lines))
    return path


def test_joined_files_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path, 40)
    monkeypatch.setattr(cuts, "JOINED_BYTES", 0)
    single = build(tmp_path, "single")
    assert len(single.parts) == len(single.inputs)
    monkeypatch.setattr(cuts, "JOINED_BYTES", 50_000)
    monkeypatch.setattr(cuts, "_TASKS_WANTED", 1)
    joined = build(tmp_path, "joined")
    assert len(joined.parts) < len(single.parts) / 2
    assert len(joined.files) < len(single.files) / 2
    assert joined.fingerprint == single.fingerprint
    assert joined.counts == single.counts
    assert [each.checksum for each in joined.shards] == [each.checksum for each in single.shards]
    stores = [open_store(str(tmp_path / name)) for name in ("single", "joined")]
    assert [audit(store) for store in stores] == [([], [])] * 2
    stats = [read_stats(store.tree.root) for store in stores]
    for told in stats:
        nearest = told.pop("nearest")
        told["near"] = {
            (rule, side): [(away, rank) for away, rank, _ in found]
            for rule, sides in nearest.items()
            for side, found in sides.items()
        }
    assert stats[0] == stats[1]
    assert ("small-007.jsonl", "invalid_json", 1, 4) in [
        (each["file"], each["rule"], each["count"], each["records"])
        for each in stats[1]["unreadable"]["worst"]
    ]


def test_a_killed_refresh_goes_on_with_other_files_and_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the killed one cleaned in groups that are none any more is swept away."""
    write_small(tmp_path, 20)
    monkeypatch.setattr(cuts, "JOINED_BYTES", 50_000)
    monkeypatch.setattr(cuts, "_TASKS_WANTED", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.build._corpus", lambda *_: sys.exit("killed after cleaning"))
        with pytest.raises(SystemExit):
            build(tmp_path, "killed")
    folder = tmp_path / "raw" / "books"
    (folder / "added.jsonl").write_text(json.dumps(make_documents(11, 1)[0]))
    (folder / "small-001.jsonl").unlink()
    killed, fresh = build(tmp_path, "killed"), build(tmp_path, "fresh")
    assert killed.fingerprint == fresh.fingerprint
    assert audit(open_store(str(tmp_path / "killed"))) == ([], [])
    known = {each.path for each in killed.files} | {each.path for each in killed.shards}
    root = tmp_path / "killed" / "snapshots" / "first"
    there = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert {name for name in there - known if not name.startswith("records/")} == {"snapshot.json"}


def test_joined_files_are_measured_as_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(str(write_small(tmp_path, 20)))
    found = []
    monkeypatch.setattr(cuts, "_TASKS_WANTED", 1)
    for most_bytes, tasks in ((0, 24), (10**6, 2)):
        monkeypatch.setattr(cuts, "JOINED_BYTES", most_bytes)
        lines = list(survey(recipe, str(tmp_path / f"out-{tasks}")))
        paths = sorted((tmp_path / f"out-{tasks}" / "statistics").glob("*/*"))
        rows = [row for path in paths for row in table_rows(path)]
        found.append((lines[:-1], sorted(rows, key=lambda row: (row["file"], row["position"]))))
        assert len(paths) == tasks
    assert repr(found[0]) == repr(found[1])  # NaN is itself


def test_a_joined_file_is_named_where_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the task that finds it changed, by the audit, and by a take-down as what holds a text."""
    write_small(tmp_path, 12)
    monkeypatch.setattr(cuts, "_TASKS_WANTED", 1)
    snapshot = build(tmp_path, "store")
    assert len(snapshot.parts) == 2
    store = open_store(str(tmp_path / "store"))
    (row, *_) = table_rows(store.tree.find(f"clean/{snapshot.parts[0].name}.parquet"))
    listed = Forgotten(ids=frozenset([hash_id(row["id"])]))
    raw = [line for line in out_of_reach(store.root, [snapshot], listed) if "raw input" in line]
    assert raw == [f"raw input {tmp_path}/raw/{row['source']}/{row['file']}"]
    (group, *_) = cuts.join_inputs(snapshot.inputs)
    path = Path(group[-1].path)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match=f"{group[-1].name} changed since it was listed"):
        list(cuts.Cut(group, "name").read(10**6))
    told = [f"{group[-1].source}: {group[-1].name} is another file by now"]
    assert audit(store) == ([], told)
    path.unlink()
    assert audit(store) == ([], [f"{told[0].partition(' is ')[0]} is not at {path} any more"])


def test_a_report_finds_witnesses_also_where_files_were_joined_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_small(tmp_path, 12)
    monkeypatch.setattr(cuts, "_TASKS_WANTED", 1)
    store = open_store(build(tmp_path, "store").recipe["store"])
    shown = "".join(duplicates(store))
    assert shown.count("<blockquote") > 1 and "not looked up" not in shown
    monkeypatch.setattr(cuts, "JOINED_BYTES", 0)
    assert "".join(duplicates(store)) == shown


def test_rows_of_no_input_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path, 3)
    store = open_store(build(tmp_path, "store").recipe["store"])
    (*rest, last) = store.snapshot.inputs
    fewer = store.snapshot.model_copy(update={"inputs": tuple(rest)})
    monkeypatch.setattr("pipeline.proofs._check_files", lambda *_: ())
    (problem,) = audit(store._replace(snapshot=fewer)).problems
    assert problem == f"{last.source}: there are rows of {last.name}, which is no input"


SIZES = st.lists(st.integers(0, 60) | st.just(1000), max_size=40)


@given(st.lists(st.tuples(st.sampled_from("ab"), SIZES), max_size=4), st.integers(1, 80))
def test_groups_follow_from_what_a_delivery_brings(
    deliveries: list[tuple[str, list[int]]], most: int
) -> None:
    def given_by(label: int) -> list[Input]:
        source, sizes = deliveries[label]
        return [
            Input(snapshot=f"d{label}", source=source, name=f"{n:03d}", format="jsonl",
                  size_bytes=size, checksum="", path="")
            for n, size in enumerate(sizes)
        ]  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "JOINED_BYTES", most)
        patch.setattr(cuts, "JOINED_FILES", 5)
        alone = [cuts.join_inputs(given_by(label)) for label in range(len(deliveries))]
        inputs = [each for label in range(len(deliveries)) for each in given_by(label)]
        groups = cuts.join_inputs(inputs)
    assert groups == [group for of_one in alone for group in of_one]
    assert [each for group in groups for each in group] == inputs
    for group in groups:
        assert len({(each.snapshot, each.source) for each in group}) == 1
        assert len(group) <= 5
        assert len(group) == 1 or sum(each.size_bytes for each in group) <= most


def test_few_files_are_not_joined() -> None:
    """So many tasks as workers could take are left; beyond them small files go together."""

    def groups_of(files: int, size: int) -> list[int]:
        inputs = [
            Input(snapshot="d", source="s", name=f"{n:05d}", format="jsonl", size_bytes=size,
                  checksum="", path="")
            for n in range(files)
        ]  # fmt: skip
        return [len(group) for group in cuts.join_inputs(inputs)]

    assert groups_of(64, 1000) == [1] * 64
    assert groups_of(128, 1000) == [2] * 64
    assert set(groups_of(100_000, 3000)[:-1]) == {1024}
    assert set(groups_of(100_000, 100_000)[:-1]) == {41}
    assert groups_of(3, 0) == [3]
