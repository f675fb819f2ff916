"""A refresh equals a rebuild, with take-downs in between, and both equal the brute force.

A bounded set of random chains; `python -m benchmarks.chains` runs thousands.
"""

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chain_helpers import (
    Chain,
    Delivery,
    KilledError,
    check_chain,
    compare_snapshots,
    prepare,
    random_config,
    random_deliveries,
    random_records,
    random_request,
    run_with_kills,
    tables,
    verdicts,
)
from forgotten_helpers import covers

from corpus.files import create, list_names
from corpus.forgotten import read_forgotten
from corpus.snapshots import (
    is_withdrawn,
    list_snapshots,
    newest_label,
    open_snapshot,
    snapshot_root,
    write_head,
)
from pipeline import cascade
from pipeline.cascade import Edge
from pipeline.dedup import Node
from pipeline.purge import purge
from pipeline.refresh import rebuild, refresh

CHAINS = 16
CASES = {
    "readmitted", "readmissions that evict", "other witness", "exact ties", "chains",
    "several possible witnesses", "redelivered ids",
}  # fmt: skip


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


@pytest.mark.slow
def test_refreshes_equal_the_rebuild(tmp_path: Path) -> None:
    for seed in range(CHAINS):
        check_chain(seed, tmp_path / str(seed), takedowns=False)


@pytest.mark.slow
def test_take_downs_equal_the_rebuild(tmp_path: Path) -> None:
    cases: Counter[str] = Counter()
    for seed in range(CHAINS):
        cases += check_chain(seed, tmp_path / str(seed), takedowns=True)
    assert set(cases) >= CASES, cases


@pytest.mark.slow
def test_every_take_down_may_be_purged(tmp_path: Path) -> None:
    """Files of withdrawn snapshots are the next purge's to look into, or not there."""
    withdrawn = 0
    for seed in range(10):
        rng = random.Random(seed)
        chain = Chain(tmp_path / str(seed), random_config(rng))
        for delivery in random_deliveries(rng):
            chain.deliver(delivery)
            for label in (f"{delivery.label}-t", f"{delivery.label}-u"):
                request = random_request(rng, chain, open_snapshot(chain.store))
                chain.take_down(label, request)
                withdrawn = max(withdrawn, len(purge(chain.store)))
                check_purged(chain.store)
        stores = (chain.store, str(chain.directory / "rebuilt"))
        compare_snapshots(stores, (open_snapshot(chain.store), chain.rebuild()))
    assert withdrawn > 5


def check_purged(store: str) -> None:
    """No file holds text that a snapshot which opens does not list, nor one on the list."""
    forgotten, needed = read_forgotten(store), set[str]()
    for label in list_snapshots(store):
        if not is_withdrawn(store, label):
            snapshot = open_snapshot(store, label)
            needed |= {f"{each.home}/{each.path}" for each in snapshot.all_files}
            assert not any(covers(forgotten, row) for row in tables(store, snapshot, "clean"))
    there = set(list_names(f"{store}/snapshots"))
    texts = {name for name in there if name.split("/")[1] in ("clean", "index", "tokens", "shards")}
    assert texts == texts & needed


def fails_somewhere(directory: Path, seeds: range) -> bool:
    """Tell whether the checks see that something is wrong."""
    for seed in seeds:
        try:
            check_chain(seed, directory / str(seed), takedowns=True)
        except AssertionError:
            return True
    return False


@pytest.mark.slow
def test_edges_to_survivors_alone_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: a take-down that does not look at dropped documents misses who evicts whom."""
    judge = cascade.Cascade._judge

    def without_dropped(self: cascade.Cascade, node: Node, around: list[Edge]) -> list[Node]:
        seen = [e for e in around if not self._is_dropped(e.node.document)]
        return judge(self, node, seen)

    monkeypatch.setattr(cascade.Cascade, "_judge", without_dropped)
    assert fails_somewhere(tmp_path, range(35, 75))  # one chain in some forty shows it: 36


@pytest.mark.slow
def test_a_cascade_that_stops_early_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutant: documents that were admitted again evict nobody."""
    judge = cascade.Cascade._judge

    def alone(self: cascade.Cascade, node: Node, around: list[Edge]) -> list[Node]:
        judge(self, node, around)
        return []

    monkeypatch.setattr(cascade.Cascade, "_judge", alone)
    assert fails_somewhere(tmp_path, range(40))


def test_verify_goes_on_with_other_partitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A share of the pairs that other groups gave is no share of these."""
    config = random_config(random.Random(0)) | {"partitions": 16, "scope": "corpus"}
    records = random_records(random.Random(1), 300)
    delivery = Delivery("s", {("a", "f.jsonl"): records})
    chains = [Chain(tmp_path / name, config) for name in ("killed", "whole")]
    recipes = [chain.recipe(delivery).model_copy(update={"workers": 2}) for chain in chains]

    def create_and_die(path: str, data: bytes) -> bool:
        if create(path, data) and "/records/verify/00000" in path:
            raise KilledError
        return True

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.jobs.create", create_and_die)
        with pytest.raises(KilledError):
            refresh(recipes[0])
    dedup = recipes[0].dedup.model_copy(update={"partitions": 4})
    killed = refresh(recipes[0].model_copy(update={"dedup": dedup})).snapshot
    whole = refresh(recipes[1]).snapshot
    compare_snapshots((chains[0].store, chains[1].store), (killed, whole))


@pytest.mark.slow
def test_kills_at_random_points_do_not_show(tmp_path: Path) -> None:
    """Every command is killed now and then, and goes on with another number of workers."""
    kills = 0
    for seed in range(4):
        rng = random.Random(seed)
        chain = Chain(tmp_path / str(seed), random_config(rng))
        kills += run_with_kills(rng, chain, random_deliveries(rng))
        stores = (chain.store, str(chain.directory / "rebuilt"))
        compare_snapshots(stores, (open_snapshot(chain.store), chain.rebuild()))
    assert kills > 20


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path, {"threshold": 0.7, "bands": 20, "rows": 2, "ngram": 1})


def text(number: int) -> str:
    return " ".join(f"t{number}x{n}" for n in range(12))


def records(*numbers: int) -> list[dict[str, Any]]:
    return [{"id": f"d{n}", "text": text(n)} for n in numbers]


FIRST = Delivery("s1", {("a", "one.jsonl"): records(1, 2)})
SECOND = Delivery("s2", {("a", "two.jsonl"): records(3), ("b", "b.jsonl"): records(4)})


@pytest.mark.parametrize("partitions", [16, 128])
@pytest.mark.slow
def test_partitions_do_not_show(tmp_path: Path, partitions: int) -> None:
    fingerprints = set()
    files = {("a", f"{n}.jsonl"): random_records(random.Random(n), 30) for n in range(3)}
    for number in (1, partitions):
        made = Chain(tmp_path / str(number), {"threshold": 0.5, "ngram": 2, "partitions": number})
        fingerprints.add(made.deliver(Delivery("s1", files)).fingerprint)
    assert len(fingerprints) == 1


def test_a_refresh_reads_new_inputs_only_and_leaves_old_files(chain: Chain) -> None:
    chain.deliver(FIRST)
    root = Path(snapshot_root(chain.store, "s1"))
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    (chain.directory / "raw" / "s1" / "a" / "one.jsonl").unlink()
    second = chain.deliver(SECOND)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert second.deliveries == ("s1", "s2")
    assert second.counts.documents_kept == 4
    assert {shard.home for shard in second.shards} == {"s1", "s2"}
    assert second.tokenizer == open_snapshot(chain.store, "s1").tokenizer
    assert open_snapshot(chain.store, "s1").counts.documents_kept == 2


def test_a_label_with_nothing_new_makes_no_snapshot(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = chain.deliver(FIRST)
    again = chain.recipe(FIRST).model_copy(update={"snapshot": "s9"})
    outcome = refresh(again)
    assert (outcome.snapshot, outcome.tasks_run) == (first, 0)
    assert "1 inputs were delivered before: not read again" in caplog.text
    assert "s9 brings no new input: no snapshot is made" in caplog.text
    assert not Path(snapshot_root(chain.store, "s9")).exists()
    assert newest_label(chain.store) == "s1"


def test_an_input_delivered_twice_is_read_once(
    chain: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    chain.deliver(FIRST)
    both = Delivery("s2", FIRST.files | SECOND.files)
    second = chain.deliver(both)
    assert caplog.text.count("1 inputs were delivered before: not read again") == 1
    assert [each.name for each in second.inputs if each.snapshot == "s2"] == [
        "two.jsonl",
        "b.jsonl",
    ]
    assert second.counts.documents_in == 4


def test_a_recrawled_id_keeps_the_older_text_and_is_counted(chain: Chain) -> None:
    chain.deliver(FIRST)
    second = chain.deliver(
        Delivery("s2", {("a", "two.jsonl"): [{"id": "d1", "text": text(9)}, *records(3)]})
    )
    assert second.counts.documents_dropped == {"same_id": 1}
    (went,) = verdicts(chain.store, second).values()
    assert went == ("same_id", None, ("s1", "a", "one.jsonl", 1))


def test_an_older_survivor_always_wins(chain: Chain) -> None:
    chain.deliver(FIRST)
    near = text(1).rsplit(" ", 1)[0]
    for number in range(8):
        changed = f"{near} other{number}"
        chain.deliver(
            Delivery(
                f"n{number}", {("a", f"n{number}.jsonl"): [{"id": f"n{number}", "text": changed}]}
            )
        )
    last = open_snapshot(chain.store)
    assert {went[2][0] for went in verdicts(chain.store, last).values()} == {"s1"}
    assert last.counts.documents_kept == 2


def test_labels_that_cannot_be_are_refused(chain: Chain) -> None:
    chain.deliver(FIRST)
    more = Delivery("s1", FIRST.files | {("a", "more.jsonl"): records(5)})
    with pytest.raises(ValueError, match=r"complete with other inputs \(a: more.jsonl is new"):
        chain.deliver(more)
    chain.deliver(SECOND)
    rebuild(chain.store, str(chain.directory / "rebuilt"), workers=1)
    third = chain.recipe(Delivery("s1", {("a", "three.jsonl"): records(6)}))
    with pytest.raises(ValueError, match="holds the delivery s1: give another label"):
        refresh(third.model_copy(update={"store": str(chain.directory / "rebuilt")}))
    chain.deliver(Delivery("s3", {("a", "six.jsonl"): records(6)}))
    with pytest.raises(ValueError, match="holds the snapshot s2: rebuild into an empty store"):
        rebuild(chain.store, str(chain.directory / "rebuilt"))


def test_a_store_is_not_rebuilt_into_itself(chain: Chain) -> None:
    chain.deliver(FIRST)
    link = chain.directory / "link"
    link.symlink_to(chain.store)
    for into in (chain.store, f"{chain.store}/", str(link)):
        with pytest.raises(ValueError, match="is the store itself: rebuild into an empty one"):
            rebuild(chain.store, into)
    for store, into in ((f"file://{chain.store}", chain.store), (chain.store, "file:///x")):
        with pytest.raises(ValueError, match=r"^store is file:.*without a scheme$"):
            rebuild(store, into)


def test_a_rebuild_names_every_raw_file_that_is_gone_before_it_begins(chain: Chain) -> None:
    chain.deliver(FIRST)
    files = {("a", f"{n:02}.jsonl"): records(10 + n) for n in range(12)}
    chain.deliver(Delivery("s2", files))
    raw = chain.directory / "raw"
    changed = raw / "s1" / "a" / "one.jsonl"
    whole = changed.read_bytes()
    changed.write_bytes(whole + b"\n")
    odd = f"{changed} holds {len(whole) + 1:,} bytes, it held {len(whole):,}"
    with pytest.raises(ValueError, match=r"1 of the 13 raw files of .* not as they.*") as caught:
        chain.rebuild()
    assert f"delivered: {odd}: a rebuild reads them all" in str(caught.value)
    changed.write_bytes(whole)
    for number in range(12):
        (raw / "s2" / "a" / f"{number:02}.jsonl").rename(raw / f"{number:02}")
    with pytest.raises(ValueError, match=r"12 of the 13 raw files") as caught:
        chain.rebuild()
    named = "; ".join(f"{raw}/s2/a/{number:02}.jsonl is gone" for number in range(10))
    assert f"{named} and 2 more: a rebuild" in str(caught.value)
    assert not (chain.directory / "rebuilt").exists()
    for number in range(12):
        (raw / f"{number:02}").rename(raw / "s2" / "a" / f"{number:02}.jsonl")
    rebuilt = chain.rebuild()
    shutil.rmtree(raw)
    assert chain.rebuild() == rebuilt  # it is complete: nothing is read


def test_a_rebuilt_store_goes_on_like_the_other(chain: Chain) -> None:
    chain.deliver(FIRST)
    chain.deliver(SECOND)
    chain.rebuild()
    third = chain.recipe(Delivery("s3", {("a", "three.jsonl"): records(1, 6)}))
    one = refresh(third).snapshot
    other_store = str(chain.directory / "rebuilt")
    other = refresh(third.model_copy(update={"store": other_store})).snapshot
    compare_snapshots((chain.store, other_store), (one, other))


def test_a_kill_before_head_moved_is_mended(chain: Chain) -> None:
    chain.deliver(FIRST)
    second = chain.deliver(SECOND)
    write_head(chain.store, "s1")
    assert chain.deliver(SECOND) == second
    assert newest_label(chain.store) == "s2"


def test_scopes_keep_deliveries_or_sources_apart(tmp_path: Path) -> None:
    kept = {}
    for scope in ("corpus", "snapshot", "source"):
        chain = Chain(tmp_path / scope, {"scope": scope, "ngram": 1})
        chain.deliver(Delivery("s1", {("a", "1.jsonl"): records(1), ("b", "1.jsonl"): records(1)}))
        last = chain.deliver(Delivery("s2", {("a", "2.jsonl"): records(1)}))
        kept[scope] = last.counts.documents_kept
    assert kept == {"corpus": 1, "snapshot": 2, "source": 2}


@pytest.mark.parametrize(
    ("config", "stays"),
    [
        ({"prefer": ["source"], "source_priority": ["b"]}, "b/long"),
        ({"prefer": ["length"]}, "b/long"),
        ({"prefer": ["quality"], "quality_key": "score"}, "a/good"),
        ({"prefer": ["quality", "length"], "quality_key": "none"}, "b/long"),
    ],
)
def test_who_is_preferred(tmp_path: Path, config: dict[str, Any], stays: str) -> None:
    chain = Chain(tmp_path, config | {"threshold": 0.5, "ngram": 1, "bands": 100, "rows": 1})
    files = {
        ("a", "1.jsonl"): [{"id": "good", "text": text(1) + " x", "score": 0.9}],
        ("b", "1.jsonl"): [{"id": "long", "text": text(1) + " and longer", "score": 0.1}],
    }
    last = chain.deliver(Delivery("s1", files))
    gone = {row["id"] for row in tables(chain.store, last, "duplicates")}
    assert {"a/good", "b/long"} - gone == {stays}
