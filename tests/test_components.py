"""Shares of a large corpus: whole components, no more than wanted, and never in the result."""

import logging
import random
from pathlib import Path

import numpy as np
import pytest
from chain_helpers import Chain, compare_snapshots, prepare, random_config, random_deliveries
from stage_helpers import (
    Oracle,
    clean_parts,
    corpus_of,
    random_texts,
    read_dropped,
    run_stages_here,
    spread,
)

from corpus.recipe import MEMORY_BYTES, Dedup
from corpus.snapshots import Tree
from pipeline import components, pairs
from pipeline.components import Found, deal_components, documents_of_share
from pipeline.dedup import judge_share, resolve_parts
from pipeline.index import Corpus, Keys, KeySearch, within
from pipeline.pairs import group_partition, verify_share
from pipeline.stretch import open_arrow

CONFIG = Dedup(bands=6, rows=2, ngram=2, threshold=0.4, partitions=2)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def find_edges(tree: Tree, corpus: Corpus) -> Found:
    """Run group and verify in two tasks each."""
    for number in range(2):
        group_partition(tree, f"g{number}", corpus, (number, 2))
    for number in range(2):
        verify_share(tree, f"v{number}", CONFIG, corpus, (number, 2, ["g0", "g1"]))
    return Found(("g0", "g1"), ("v0", "v1"), "d")


def naive_components(tree: Tree, found: Found) -> set[frozenset[int]]:
    """Join what is joined in the files, by merging sets until none overlap."""
    joined: list[set[int]] = []
    for group in found.groups:
        members = open_arrow(tree.own(f"work/group/{group}.members.arrow")).to_pylist()
        joined += [{row["document"], row["first"]} for row in members]
        large: dict[int, set[int]] = {}
        for row in open_arrow(tree.own(f"work/group/{group}.large.arrow")).to_pylist():
            large.setdefault(row["bucket"], set()).add(row["document"])
        joined += large.values()
    for check in found.checks:
        verified = open_arrow(tree.own(f"work/verify/{check}.arrow")).to_pylist()
        joined += [{row["left"], row["right"]} for row in verified]
    whole: list[set[int]] = []
    for one in joined:
        apart = [other for other in whole if not one & other]
        whole = [*apart, one.union(*(other for other in whole if one & other))]
    return {frozenset(each) for each in whole}


@pytest.mark.parametrize("budget", [0, 2**15])
def test_shares_are_whole_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """And the verdicts of the shares are those of the oracle, which knows no shares."""
    monkeypatch.setattr(pairs, "_PAIRS_PER_BUCKET", budget)
    several = alone = 0
    for seed in range(20):
        rng = random.Random(seed)
        documents = random_texts(rng, rng.randint(6, 30))
        tree = Tree(str(tmp_path / str(seed)))
        cuts = [rng.randint(0, len(documents)) for _ in range(rng.randint(0, 3))]
        names = clean_parts(tree, spread(documents, cuts), CONFIG)
        corpus = corpus_of(names)
        found = find_edges(tree, corpus)
        whole = naive_components(tree, found)
        limit = rng.randint(1, 6)
        monkeypatch.setattr(components, "_PLACES_PER_BATCH", rng.randint(1, 9))
        memory_bytes = rng.choice([0, MEMORY_BYTES])  # a scratch file, or none
        counts = deal_components(tree, "d", corpus, found, limit, memory_bytes).counts
        shares = [set(documents_of_share(tree, "d", n).tolist()) for n in range(counts["shares"])]
        assert sum(map(len, shares)) == sum(map(len, whole))
        assert counts["largest"] == max(map(len, whole), default=0)
        for share in shares:
            inside = [component for component in whole if component & share]
            assert share == set().union(*inside)
            assert len(share) <= limit or len(inside) == 1
            alone += len(share) > limit
        several += len(shares) > 1
        judges = [f"j{number}" for number in range(len(shares))]
        judged = [
            judge_share(tree, name, CONFIG, corpus, (found, number)).counts["documents"]
            for number, name in enumerate(judges)
        ]
        assert judged == [len(share) for share in shares]
        resolve_parts(tree, "r", CONFIG, corpus, ((0, len(names)), judges))
        assert read_dropped(tree, names) == Oracle(documents, CONFIG).dropped(), seed
    assert several > 10
    assert alone > 3


@pytest.mark.parametrize("parents", [np.zeros(10, np.int32), np.zeros(10, np.int64)])
def test_components_are_dealt_in_order(parents: components.Parents) -> None:
    """Three, four and two of them, at most five a share; place 3 has no edge."""
    left = np.array([8, 2, 4, 6, 7, 1], np.int64)
    right = np.array([9, 0, 5, 5, 4, 2], np.int64)
    components.join(parents, left, right)
    assert components.deal(parents, 5) == (3, 4)
    ((places, shares),) = components.all_shares(parents)
    assert places.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert shares.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2]


@pytest.mark.parametrize("seed", range(4))
def test_no_share_shows_in_a_snapshot(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seed: int,
) -> None:
    """Deliveries judged in shares of two documents and one part a task; rebuilt in one."""
    run_stages_here(monkeypatch)
    rng = random.Random(f"components-{seed}")
    chain = Chain(tmp_path, random_config(rng))
    with monkeypatch.context() as small:
        small.setattr(components, "DOCUMENTS_PER_SHARE", 1)
        small.setattr("pipeline.dedup.PARTS_PER_TASK", 1)
        for delivery in random_deliveries(rng):
            with caplog.at_level(logging.WARNING):
                last = chain.deliver(delivery)
    assert "hang together and are judged by one task, 1 is the aim" in caplog.text
    rebuilt = chain.rebuild()
    compare_snapshots((chain.store, str(tmp_path / "rebuilt")), (last, rebuilt))


@pytest.mark.parametrize(("seed", "memory_bytes"), [(0, 20_000), (1, 3_000), (2, 1)])
def test_memory_does_not_show(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seed: int,
    memory_bytes: int,
) -> None:
    """With 3,000 bytes rounds of 5 keys and shares of 5 documents; with 1 of one each."""
    prepare(monkeypatch)
    rounds: list[int] = []
    read = KeySearch.read

    def counting(search: KeySearch, low: int, high: int) -> Keys:
        rounds.append(high - low)
        return read(search, low, high)

    monkeypatch.setattr(KeySearch, "read", counting)
    deliveries = random_deliveries(random.Random(f"memory-{seed}"))
    config = random_config(random.Random(seed))
    usual, small = (Chain(tmp_path / name, dict(config)) for name in ("usual", "small"))
    for number, delivery in enumerate(deliveries):
        rounds.clear()
        expected = usual.deliver(delivery)
        few = len(rounds)
        # It is no lineage key: a store goes on with another value.
        small.config["memory_bytes"] = memory_bytes + number
        with caplog.at_level(logging.WARNING):
            found = small.deliver(delivery)
        assert len(rounds) > 2 * few
        compare_snapshots((usual.store, small.store), (expected, found))
    told = "hang together and are judged by one task, 1 is the aim" in caplog.text
    assert told == (memory_bytes == 1)


def test_what_is_held_follows_from_memory() -> None:
    """Half the memory holds half, the default what the constants say, the least still one."""
    assert within(Dedup().memory_bytes, 4_000_000) == 4_000_000
    assert within(2**30, 4_000_000) == 2_000_000
    assert within(1, 4_000_000) == 1
