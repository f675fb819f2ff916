"""Take-downs by hand: what goes, what comes back, what is listed, what leaves the disk."""

import json
import logging
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from chain_helpers import (
    Chain,
    Delivery,
    compare_snapshots,
    prepare,
    random_deliveries,
    random_request,
    tables,
)
from stage_helpers import table_rows

from corpus.files import create, list_names, read_bytes
from corpus.recipe import Recipe
from corpus.snapshots import Snapshot, find_snapshot, open_snapshot, snapshot_root
from pipeline.__main__ import main
from pipeline.clusters import cluster_sizes
from pipeline.diff import count_changes, describe, find_changes
from pipeline.explain import explain, open_store
from pipeline.forget import Request, forget
from pipeline.proofs import audit

CONFIG = {"threshold": 0.6, "bands": 60, "rows": 1, "ngram": 1, "partitions": 1}
# Neighbours share 9 of 11 words (0.82), those two apart 8 of 12 (0.67), three apart 7 of 13 (0.54).
WORDS = [f"w{n}" for n in range(30)]


def linked(place: int) -> str:
    return " ".join(WORDS[place : place + 10])


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


def record(key: str, text: str, **fields: str) -> dict[str, Any]:
    return {"id": key, "text": text, **fields}


def delivery(label: str, *records: dict[str, Any], source: str = "a") -> Delivery:
    return Delivery(label, {(source, f"{label}.jsonl"): list(records)})


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """Three deliveries; b is like a, c like b and not like a, so a and c stay."""
    made = Chain(tmp_path, CONFIG | {"threshold": 0.7})
    made.deliver(delivery("s1", record("a", linked(0), url="http://x.test/a")))
    made.deliver(delivery("s2", record("b", linked(1)), record("other", "so far away " * 3)))
    made.deliver(delivery("s3", record("c", linked(2), url="http://x.test/c")))
    return made


def kept(chain: Chain, snapshot: Snapshot) -> set[str]:
    documents = {row["id"] for row in tables(chain.store, snapshot, "clean")}
    return documents - {row["id"] for row in tables(chain.store, snapshot, "duplicates")}


def test_one_comes_back_and_evicts_a_later_one(chain: Chain) -> None:
    before = open_snapshot(chain.store)
    assert kept(chain, before) == {"a/a", "a/c", "a/other"}
    after = chain.take_down("t", Request(ids=("a/a",)))
    assert kept(chain, after) == {"a/b", "a/other"}
    (row,) = tables(chain.store, after, "duplicates")
    assert (row["id"], row["witness_id"], row["similarity"]) == ("a/c", "a/b", 9 / 11)
    assert after.counts.documents_dropped == {"forgotten": 1, "minhash": 1}
    assert after.counts.documents_in == before.counts.documents_in
    rebuilt = chain.rebuild()
    compare_snapshots((chain.store, str(chain.directory / "rebuilt")), (after, rebuilt))
    assert audit(open_store(chain.store)) == ([], [])


def test_exactly_the_shards_whose_members_changed_are_written(chain: Chain) -> None:
    before = {shard.path: shard for shard in open_snapshot(chain.store).shards}
    after = chain.take_down("t", Request(ids=("a/other",)))
    written = {shard.path for shard in after.shards if shard.home == "t"}
    assert set(before) == {shard.path for shard in after.shards}
    changed = {s.path for s in after.shards if s.checksum != before[s.path].checksum}
    assert written == changed
    assert len(written) == 1
    assert next(iter(written)).startswith("shards/s2/a/")
    assert after.tokenizer == open_snapshot(chain.store, "s3").tokenizer


def test_a_dropped_duplicate_goes_without_a_trace_in_shards(chain: Chain) -> None:
    after = chain.take_down("t", Request(ids=("a/b",)))
    assert kept(chain, after) == {"a/a", "a/c", "a/other"}
    assert all(shard.home != "t" for shard in after.shards)
    assert tables(chain.store, after, "duplicates") == []


def test_the_same_text_goes_under_every_id(chain: Chain) -> None:
    chain.deliver(delivery("s4", record("copy", linked(0).upper()), source="b"))
    after = chain.take_down("t", Request(ids=("a/a",)))
    assert kept(chain, after) == {"a/b", "a/other"}
    assert after.counts.documents_dropped["forgotten"] == 2


def test_by_url_prefix_and_by_source(chain: Chain) -> None:
    after = chain.take_down("t", Request(url_prefixes=("http://x.test/",)))
    assert kept(chain, after) == {"a/b", "a/other"}
    chain.deliver(delivery("s4", record("copy", "so far away " * 3), source="b"))
    gone = chain.take_down("u", Request(sources=("a",)))
    assert kept(chain, gone) == {"b/copy"}  # a source is forgotten, not its text elsewhere
    compare_snapshots((chain.store, str(chain.directory / "rebuilt")), (gone, chain.rebuild()))


def test_the_next_crawl_does_not_bring_it_back(chain: Chain) -> None:
    chain.take_down("t", Request(ids=("a/a",)))
    again = delivery(
        "s4", record("a", "now the page says something else"), record("z", linked(0)),
        record("new", "and this is new"),
    )  # fmt: skip
    after = chain.deliver(again)
    assert kept(chain, after) == {"a/b", "a/other", "a/new"}
    assert after.counts.documents_dropped["forgotten"] == 3
    compare_snapshots((chain.store, str(chain.directory / "rebuilt")), (after, chain.rebuild()))


def test_nothing_on_disk_of_the_list_is_text_or_id(chain: Chain) -> None:
    chain.take_down("t", Request(ids=("a/a",)))
    data = Path(chain.store, "forgotten", "t.json").read_text()
    assert "a/a" not in data
    assert "w0" not in data


def test_what_is_not_there_is_remembered_all_the_same(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = open_snapshot(chain.store)
    assert chain.take_down("t", Request(ids=("a/unseen",))) == before
    assert "no document of s3 is on the list" in caplog.text
    after = chain.deliver(delivery("s4", record("unseen", "a text of six words here")))
    assert after.counts.documents_dropped["forgotten"] == 1


def test_mistakes_are_refused(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="nothing to forget"):
        forget(chain.store, "t", Request())
    with pytest.raises(ValueError, match="no source b; there are a"):
        forget(chain.store, "t", Request(sources=("b",)))
    with pytest.raises(ValueError, match="holds a snapshot s2 already"):
        forget(chain.store, "s2", Request(ids=("a/a",)))
    chain.take_down("t", Request(ids=("a/a",)))
    with pytest.raises(ValueError, match="t is another take-down"):
        forget(chain.store, "t", Request(ids=("a/b",)))
    assert chain.take_down("t", Request(ids=("a/a",))) == open_snapshot(chain.store)
    assert main(["forget", chain.store, "--label", "Not A Label", "--id", "a/c"]) == 2
    assert "error:" in capsys.readouterr().err


class KilledError(Exception):
    """Stands for a SIGKILL."""


def die(*_: object) -> None:
    raise KilledError


def die_in(stage: str) -> Callable[[str, bytes], bool]:
    def create_or_die(path: str, data: bytes) -> bool:
        if f"/records/{stage}/" in path:
            raise KilledError
        return create(path, data)

    return create_or_die


# Where a take-down is killed: before its first task, in each stage, before its last two writes.
KILLS = {
    "begin": ("pipeline.takedown._take_out", die),
    **{s: ("pipeline.jobs.create", die_in(s)) for s in ("forget", "cascade", "encode", "pack")},
    "manifest": ("pipeline.takedown.commit", die),
    "HEAD": ("corpus.snapshots.write_head", die),
}
LATER = delivery("s4", record("z", linked(0)), record("new", "and this is new"))


def take_down_killed(chain: Chain, kill: str, label: str, request: Request) -> None:
    """Take down and be killed; stages that have nothing to do are not reached."""
    with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
        patch.setattr(*KILLS[kill])
        chain.take_down(label, request)


def test_a_take_down_that_was_killed_is_finished(chain: Chain) -> None:
    for kill in KILLS:
        take_down_killed(chain, kill, "t", Request(ids=("a/a",)))
    after = chain.take_down("t", Request(ids=("a/a",)))
    assert open_snapshot(chain.store) == after
    compare_snapshots((chain.store, str(chain.directory / "rebuilt")), (after, chain.rebuild()))


@pytest.mark.parametrize("kill", KILLS)
def test_a_refresh_finishes_a_take_down_that_was_killed(chain: Chain, kill: str) -> None:
    """What is built on top is, byte by byte, what it would be had nobody been killed."""
    whole = Chain(chain.directory / "whole", chain.config)
    shutil.copytree(chain.store, whole.store)
    taken = whole.take_down("t", Request(ids=("a/a",)))
    expected = whole.deliver(LATER)
    take_down_killed(chain, kill, "t", Request(ids=("a/a",)))
    assert open_snapshot(chain.store).label == "s3"
    after = chain.deliver(LATER)
    assert (after.parent, after.fingerprint) == ("t", expected.fingerprint)
    assert open_snapshot(chain.store, "t").fingerprint == taken.fingerprint
    assert kept(chain, after) == {"a/b", "a/other", "a/new"}
    compare_snapshots((whole.store, chain.store), (expected, after))
    assert audit(open_store(chain.store)) == ([], [])
    # The command itself, run again, says what it would have said.
    assert chain.take_down("t", Request(ids=("a/a",))).fingerprint == taken.fingerprint


def test_a_refresh_goes_on_from_one_that_was_killed_before_its_last_write(chain: Chain) -> None:
    whole = Chain(chain.directory / "whole", chain.config)
    shutil.copytree(chain.store, whole.store)
    expected = [whole.deliver(each) for each in (LATER, delivery("s5", record("y", linked(3))))]
    with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
        patch.setattr(*KILLS["HEAD"])
        chain.deliver(LATER)
    assert open_snapshot(chain.store).label == "s3"
    after = chain.deliver(delivery("s5", record("y", linked(3))))
    assert (after.parent, after.fingerprint) == ("s4", expected[1].fingerprint)
    compare_snapshots((whole.store, chain.store), (expected[1], after))


def test_a_take_down_goes_on_from_a_refresh_that_was_killed_before_its_last_write(
    chain: Chain,
) -> None:
    """Beside it, the documents that it brought would be in no later snapshot."""
    with pytest.MonkeyPatch.context() as patch, suppress(KilledError):
        patch.setattr(*KILLS["HEAD"])
        chain.deliver(LATER)
    after = chain.take_down("t", Request(ids=("a/a",)))
    assert (after.parent, kept(chain, after)) == ("s4", {"a/b", "a/other", "a/new"})
    compare_snapshots((chain.store, str(chain.directory / "rebuilt")), (after, chain.rebuild()))


def test_the_next_take_down_finishes_the_one_before(chain: Chain) -> None:
    take_down_killed(chain, "cascade", "t", Request(ids=("a/a",)))
    with pytest.raises(ValueError, match="t is another take-down"):
        chain.take_down("t", Request(ids=("a/other",)))
    take_down_killed(chain, "pack", "u", Request(ids=("a/other",)))
    after = chain.take_down("v", Request(ids=("a/c",)))
    assert (after.parent, kept(chain, after)) == ("u", {"a/b"})
    assert open_snapshot(chain.store, "u").parent == "t"
    compare_snapshots((chain.store, str(chain.directory / "rebuilt")), (after, chain.rebuild()))


@pytest.mark.parametrize("seed", range(3))
def test_random_chains_with_killed_take_downs_equal_a_rebuild(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    made = Chain(tmp_path, CONFIG | {"bands": 12, "rows": 2, "threshold": rng.choice([0.4, 0.6])})
    for each in random_deliveries(rng):
        after = made.deliver(each)
        request = random_request(rng, made, after)
        take_down_killed(made, rng.choice(list(KILLS)), f"no-{each.label}", request)
    after = made.take_down(f"no-{each.label}", request)
    compare_snapshots((made.store, str(tmp_path / "rebuilt")), (after, made.rebuild()))


def test_documents_are_looked_through_only_after_the_list_grew(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.take_down("t", Request(ids=("a/a",)))
    monkeypatch.setattr("pipeline.takedown.read_identities", die)
    chain.deliver(LATER)
    chain.deliver(delivery("s5", record("newer", "and this is newer")))
    with pytest.raises(KilledError):
        chain.take_down("u", Request(ids=("a/c",)))


def test_a_list_that_no_command_can_finish_is_told(chain: Chain) -> None:
    chain.take_down("t", Request(ids=("a/a",)))
    Path(chain.store, "HEAD").write_text("s1\n")
    with pytest.raises(
        ValueError, match=r"s2 holds documents .* HEAD or a list was changed by hand"
    ):
        chain.deliver(LATER)


def test_a_take_down_keeps_its_label(chain: Chain) -> None:
    chain.take_down("s4", Request(ids=("a/unseen",)))
    with pytest.raises(ValueError, match="s4 is the label of a take-down"):
        chain.deliver(LATER)


def test_the_command_lists_what_held_it(
    chain: Chain, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "ids").write_text("a/a\n\n")
    arguments = ["forget", chain.store, "--label", "t", "--ids", str(tmp_path / "ids")]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main(arguments) == 0
    assert capsys.readouterr().out.splitlines()[2:] == first.splitlines()[2:]
    (held,) = [line for line in first.splitlines() if line.startswith("a/a: ")]
    assert "rows 0 to 0 of s1/shards/s1/a/" in held
    assert held.endswith("in s1, s2, s3")
    assert f"out of reach: raw input {chain.directory}/raw/s1/a/s1.jsonl" in first
    assert "merges of the tokenizer" in first


def test_the_command_counts_what_went_and_came_back(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when it is run again after a purge, which deletes what could be counted."""
    path = f"{snapshot_root(chain.store, 't')}/held.json"
    for extra in ([], ["--purge"], []):
        assert main(["forget", chain.store, "--label", "t", "--id", "a/a", *extra]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[2:4] == [
            "documents: 1 kept ones and 0 dropped duplicates are gone, 1 came back, 1 went as "
            "duplicates of those; 2 are kept now",
            "held by 1 rows of 1 shards, in s1, s2, s3",
        ]
        assert lines[4].startswith("a/a: rows 0 to 0 of ")
        assert lines[5] == f"all are listed in {path}"
        assert lines[-1] == "set `snapshot: t` in the recipe to train without them"
    held = json.loads(Path(path).read_text())
    del held["documents"]  # as an older version wrote it
    Path(path).write_text(json.dumps(held))
    assert main(["forget", chain.store, "--label", "t", "--id", "a/a"]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("held by 1 rows of 1 shards")
    assert main(["forget", chain.store, "--label", "u", "--id", "a/c"]) == 0
    gone = "documents: 0 kept ones and 1 dropped duplicates are gone, 0 came back, 0 went as"
    assert gone in capsys.readouterr().out


def test_of_many_rows_the_named_documents_and_a_few_more_are_told(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        record(f"n{n}", f"{n * 7919} stands for nothing else {n * 104729}", url="http://y.test/")
        for n in range(15)
    ]
    chain.deliver(delivery("s4", *records))
    words = ["--url-prefix", "http://y.test/", "--id", "a/n7"]
    assert main(["forget", chain.store, "--label", "t", *words]) == 0
    out = capsys.readouterr().out
    assert "documents: 15 kept ones and 0 dropped duplicates are gone" in out
    told = [line for line in out.splitlines() if ": rows " in line]
    assert len(told) == 10
    assert told[0].startswith("a/n7: rows ")
    path = f"{snapshot_root(chain.store, 't')}/held.json"
    listed = json.loads(Path(path).read_text())["sequences"]
    assert f"\n{len(listed) - 10} more; all are listed in {path}\n" in out
    rows = {(each["shard"], row) for each in listed for row in rows_of(each)}
    assert f"held by {len(rows)} rows of {len({shard for shard, _ in rows})} shards, in s4" in out
    assert main(["forget", chain.store, "--label", "u", *words]) == 0
    again = capsys.readouterr().out
    assert len([line for line in again.splitlines() if ": rows " in line]) == 10
    assert "more; all are listed in the held.json of the take-downs that took them out" in again
    assert "in the recipe to train" not in again


def rows_of(held: dict[str, Any]) -> range:
    return range(held["first_row"], held["last_row"] + 1)


def test_a_refresh_of_an_older_label_says_what_is_without_the_documents(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of those snapshots alone that hold one of them, and of no newer one."""

    def told(label: str) -> list[str]:
        path = chain.directory / "recipe.yaml"
        path.write_text(json.dumps(open_snapshot(chain.store, label).recipe))
        assert main(["refresh", str(path)]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if "taken down since" in line]

    assert told("s2") == []
    chain.take_down("t", Request(ids=("a/c",)))
    assert (told("s1"), told("s2"), told("t")) == ([], [], [])
    expected = (
        "snapshot s3 holds documents that were taken down since: {0} is without them; "
        "set `snapshot: {0}` in the recipe to train on it"
    )
    assert told("s3") == [expected.format("t")]
    chain.deliver(delivery("s4", record("new", "and this is new")))
    assert (told("s4"), told("s3")) == ([], [expected.format("s4")])


def test_purge_leaves_no_text_on_disk(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["forget", chain.store, "--label", "t", "--id", "a/a", "--purge"]
    half_done = Path(snapshot_root(chain.store, "killed"), "clean", "x.parquet")
    half_done.parent.mkdir(parents=True)
    half_done.write_bytes(b"left by a killed refresh")
    before = open_snapshot(chain.store, "s2")
    (held_in,) = [shard for shard in before.shards if shard.snapshot == "s1" and shard.rows]
    old = Path(before.tree(chain.store).find(held_in.path))
    assert old.exists()
    for _ in range(2):
        assert main(arguments) == 0
        assert "withdrawn: s1, s2, s3" in capsys.readouterr().out
    for label in ("s1", "s2", "s3"):
        with pytest.raises(ValueError, match=f"{label} was withdrawn.*use its successor t"):
            find_snapshot(chain.store, label)
    held = {row["id"] for row in tables(chain.store, open_snapshot(chain.store), "clean")}
    assert held == {"a/b", "a/c", "a/other"}
    kinds = {n.split("/")[2] for n in list_names(chain.store) if n.startswith("snapshots/s1/")}
    assert kinds == {
        "dropped",
        "duplicates",
        "records",
        "shards",
        "snapshot.json",
        "withdrawn.json",
    }
    assert not old.exists()
    assert not half_done.exists()
    assert audit(open_store(chain.store)).problems == []
    compare_snapshots(
        (chain.store, str(chain.directory / "rebuilt")),
        (open_snapshot(chain.store), chain.rebuild()),
    )


def test_purge_spares_snapshots_that_never_held_it(chain: Chain) -> None:
    main(["forget", chain.store, "--label", "t", "--id", "a/c", "--purge"])
    assert open_snapshot(chain.store, "s2").label == "s2"
    assert audit(open_store(chain.store, "s2")).problems == []
    with pytest.raises(ValueError, match="s3 was withdrawn"):
        open_snapshot(chain.store, "s3")


def test_explain_says_that_it_was_taken_down(chain: Chain) -> None:
    chain.take_down("t", Request(ids=("a/a",)))
    assert list(explain(open_store(chain.store), "a/a")) == [
        "a/a: was taken down and stays out of this store"
    ]
    with pytest.raises(ValueError, match="knows no document a/nobody"):
        list(explain(open_store(chain.store), "a/nobody"))


def test_diff_says_what_came_and_went_and_why(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    chain.take_down("t", Request(ids=("a/a",)))
    s1, s2, s3, t = (open_store(chain.store, label) for label in ("s1", "s2", "s3", "t"))
    assert {(c.id, c.came, c.why) for c in find_changes(s3, t)} == {
        ("a/a", False, "forgotten"), ("a/b", True, "admitted again"), ("a/c", False, "minhash"),
    }  # fmt: skip
    assert count_changes(s3, t)[0].refused == {}
    assert [(c.id, c.came, c.why) for c in find_changes(s1, s2)] == [("a/other", True, "delivered")]
    assert count_changes(s1, s2)[0].refused == {("a", "minhash"): 1}
    assert main(["diff", chain.store, "s3", "t", "--list"]) == 0
    assert "- a/c (s3: s3.jsonl, record 1) minhash" in capsys.readouterr().out
    assert main(["diff", chain.store, "s3", "t", "--json"]) == 0
    assert "no document came or went" in list(describe(t, t))


def test_clusters_are_counted(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    chain.deliver(delivery("s4", record("a", "another text under an old id")))
    (sizes,) = cluster_sizes(open_store(chain.store))
    assert [tuple(row.values()) for row in sizes.to_pylist()] == [("a/a", "s1", "s1.jsonl", 1, 3)]
    table = chain.directory / "clusters.parquet"
    assert main(["clusters", chain.store, "--table", str(table)]) == 0
    out = capsys.readouterr().out
    assert "1 stand for 2 to 3 records" in out
    assert table.exists()
    assert main(["clusters", chain.store, "--table", "memory://clusters/table.parquet"]) == 0
    assert read_bytes("memory://clusters/table.parquet") == table.read_bytes()


LONG = "the river of plain words runs to the sea and "


@pytest.fixture
def with_rules(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """A delivery of which a rule dropped two documents, whose excerpts its report shows."""
    made = Chain(chain.directory / "ruled", chain.config)
    recipe = Chain.recipe

    def with_a_rule(self: Chain, given: Delivery) -> Recipe:
        update = {"rules": ("gopher_quality",), "thresholds": {"gopher_min_words": 12}}
        found = recipe(self, given)
        return found.model_copy(update={"clean": found.clean.model_copy(update=update)})

    monkeypatch.setattr(Chain, "recipe", with_a_rule)
    made.deliver(
        delivery(
            "s1", record("long", LONG * 2), record("other", "of " + LONG * 3),
            record("short", "the secret of few", url="http://x.test/short"),
            record("twin", "The  SECRET of few"), record("near", "the matter of some more words"),
        )
    )  # fmt: skip
    return made


def texts_on_disk(chain: Chain) -> str:
    """Return all excerpts of a store as text, and its reports."""
    shown = [path.read_text() for path in Path(chain.store).rglob("report.html")]
    rows = [str(row) for path in Path(chain.store).rglob("nearest/*") for row in table_rows(path)]
    return "\n".join([*shown, *rows]).lower()


def test_an_excerpt_of_what_a_rule_dropped_goes_too(with_rules: Chain) -> None:
    """By id, with the same text under another id; nothing else changes but label and report."""
    before = open_snapshot(with_rules.store)
    assert "secret" in texts_on_disk(with_rules) and "matter" in texts_on_disk(with_rules)
    request = ["forget", with_rules.store, "--label", "t", "--id", "a/short"]
    assert main(request) == 0
    after = open_snapshot(with_rules.store)
    assert (after.label, after.parent, after.counts) == ("t", "s1", before.counts)
    assert [each.checksum for each in after.shards] == [each.checksum for each in before.shards]
    page = Path(after.tree(with_rules.store).own("report.html")).read_text().lower()
    assert "secret" not in page and "the matter of some more words" in page
    assert audit(open_store(with_rules.store)).problems == []
    rebuilt = with_rules.rebuild()
    stores = (with_rules.store, str(with_rules.directory / "rebuilt"))
    compare_snapshots(stores, (after, rebuilt))
    rows = [
        [str(row) for path in sorted(Path(store).rglob(pattern)) for row in table_rows(path)]
        for store, pattern in zip(stores, ("t/nearest/*", "nearest/*"), strict=True)
    ]
    assert rows[0] == rows[1]
    assert main([*request, "--purge"]) == 0
    assert "secret" not in texts_on_disk(with_rules)
    with pytest.raises(ValueError, match=r"s1 was withdrawn.*use its successor t"):
        open_snapshot(with_rules.store, "s1")


@pytest.mark.parametrize(
    "request_", [Request(url_prefixes=("http://x.test/",)), Request(sources=("a",))]
)
def test_an_excerpt_goes_by_url_and_by_source(with_rules: Chain, request_: Request) -> None:
    after = with_rules.take_down("t", request_)
    tree = after.tree(with_rules.store)
    (name,) = (each.path for each in after.files if each.path.startswith("nearest/"))
    left = [row["id"] for row in table_rows(tree.find(name))]
    assert "a/short" not in left and bool(left) == (not request_.sources)
    held = Path(tree.own("held.json")).read_text()
    assert "raw input" in held and ("tokenizer" in held) == bool(request_.sources)


def test_a_dropped_document_that_is_on_the_list_gets_no_excerpt(with_rules: Chain) -> None:
    with_rules.take_down("t", Request(ids=("a/short",)))
    with_rules.deliver(delivery("s2", record("short", "another secret of"), record("new", LONG)))
    after = open_snapshot(with_rules.store)
    tree = after.tree(with_rules.store)
    names = [each.path for each in after.files if each.path.startswith("nearest/")]
    assert len(names) == 2
    ids = {row["id"] for name in names for row in table_rows(tree.find(name))}
    assert "a/short" not in ids and "a/near" in ids
