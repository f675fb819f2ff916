"""Large corpora by the same rule: arrays as the readable walk, large buckets as all pairs.

The array walk is compared with `first_independent_set` on random graphs. Large buckets are made by
a budget of no pairs, so that every bucket is one, and compared with the oracle and with the pairs
that are listed otherwise.
"""

import random
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from chain_helpers import Chain, compare_snapshots, random_config, random_deliveries
from stage_helpers import (
    Given,
    Oracle,
    clean_parts,
    corpus_of,
    deduplicate,
    random_texts,
    run_stages_here,
    spread,
)

from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline import index, pairs
from pipeline.dedup import METHODS, Node, Verdict, first_independent_set
from pipeline.fetch import Texts
from pipeline.index import hash_words, number_equal
from pipeline.order import find_alike, sort_places
from pipeline.pairs import (
    Candidates,
    compare,
    find_candidates,
    group_partition,
    read_tokens,
    verify_share,
)
from pipeline.walk import Graph, Int32s, Large, adjacency, chunks_of, no_large, walk

SMALL = Dedup(bands=6, rows=1, ngram=2, threshold=0.4, partitions=2)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


class Drawn(NamedTuple):
    """A random graph, as the readable walk and as the array walk take it."""

    nodes: list[Node]
    similar: dict[tuple[bytes, bytes], float]
    graph: Graph


def draw(rng: random.Random) -> Drawn:
    """Draw documents with shared ids, texts and sets in two scopes, full of ties."""
    count = rng.randint(1, 24)
    few = max(2, count // 2)
    nodes = []
    for document in range(count):
        text = rng.randrange(few)
        # A text has one shingle set; some texts have one in common, some have none.
        shingles = None if text % 5 == 4 else b"s%d" % (text // 2)
        nodes.append(
            Node(
                rng.randrange(3), b"p%d" % rng.randrange(2), b"t%d" % text,
                f"i{rng.randrange(2 * count)}", f"f{rng.randrange(2)}", rng.randrange(3),
                shingles, rng.choice(["", "x"]), "snap", document,
            )
        )  # fmt: skip
    sets = sorted({node.set_hash for node in nodes if node.set_hash is not None})
    similar = {
        (one, other): rng.choice([0.8, 0.9, 1.0])
        for one in sets for other in sets if one < other and rng.random() < 0.3
    }  # fmt: skip
    return Drawn(sorted(nodes), similar, graph_of(sorted(nodes), similar))


def numbers(values: list[object]) -> Int32s:
    known = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.array([known[value] for value in values], np.int32)


def graph_of(nodes: list[Node], similar: dict[tuple[bytes, bytes], float]) -> Graph:
    """Write nodes in their order as arrays; pairs of sets hold in each scope."""
    sets = sorted({(node.scope, node.set_hash) for node in nodes if node.set_hash is not None})
    of_set = {value: number for number, value in enumerate(sets)}
    rows = [
        (of_set[scope, one], of_set[scope, other], value)
        for (one, other), value in similar.items()
        for scope in ("", "x")
        if (scope, one) in of_set and (scope, other) in of_set
    ]
    left, right, value = (np.array([row[n] for row in rows]) for n in range(3))
    return Graph(
        numbers([(node.scope, node.id) for node in nodes]),
        numbers([(node.scope, node.text_hash) for node in nodes]),
        np.array([of_set.get((n.scope, n.set_hash or b""), -1) for n in nodes], np.int32),
        *adjacency(left.astype(np.int32), right.astype(np.int32), value.astype(float), len(sets)),
        0,
    )


def verdicts_of(drawn: Drawn, large: Large | None = None) -> dict[int, Verdict]:
    """Run the array walk and write its verdicts as the readable one does."""
    sets = len(drawn.graph.offsets) - 1
    found = walk(drawn.graph, no_large(sets) if large is None else large)
    return {
        node.document: Verdict(
            drawn.nodes[found.witness[rank]],
            METHODS[found.method[rank]],
            None if np.isnan(found.similarity[rank]) else float(found.similarity[rank]),
        )
        for rank, node in enumerate(drawn.nodes)
        if found.witness[rank] >= 0
    }


def readable(drawn: Drawn) -> dict[int, Verdict]:
    neighbours: dict[bytes, dict[bytes, float]] = defaultdict(dict)
    for (one, other), value in drawn.similar.items():
        neighbours[one][other] = neighbours[other][one] = value
    return first_independent_set(drawn.nodes, neighbours)


def test_the_array_walk_is_the_readable_walk() -> None:
    methods: set[str] = set()
    for seed in range(400):
        drawn = draw(random.Random(seed))
        expected = readable(drawn)
        assert verdicts_of(drawn) == expected, seed
        methods |= {verdict.method for verdict in expected.values()}
    assert methods == set(METHODS)


def large_of(graph: Graph, sets: list[list[int]], buckets: list[list[int]], given: Dedup) -> Large:
    """Put the sets, by number, into large buckets, one chunk of tokens a set."""
    tokens = [np.array(sorted(each), np.uint64) for each in sets]
    each = np.arange(len(sets))
    numbers = np.array([b for mine in buckets for b in sorted(mine)], np.int64)
    starts = np.cumsum([0, *map(len, buckets)]).astype(np.int64)
    sizes = np.array([len(each) for each in tokens], np.int64)
    return Large(
        each, each, chunks_of(tokens), each, np.zeros(len(sets), np.int64), sizes, starts, numbers,
        given.threshold, 0,
    )  # fmt: skip


def joined(graph: Graph, rows: list[tuple[int, int, float]]) -> Graph:
    """Return the documents of a graph with other pairs of sets: (set, set, similarity)."""
    left, right = (np.array([row[n] for row in rows], np.int32) for n in range(2))
    offsets, neighbour, similarity = adjacency(
        left, right, np.array([row[2] for row in rows], np.float64), len(graph.offsets) - 1
    )
    return graph._replace(offsets=offsets, neighbour=neighbour, similarity=similarity)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_large_buckets_come_to_the_verdicts_of_all_pairs(threshold: float) -> None:
    """Random sets in random buckets: what shares a bucket and is alike is joined, no more."""
    dropped = apart = 0
    for seed in range(150):
        rng = random.Random(f"{threshold}-{seed}")
        drawn = draw(rng)
        count = len(drawn.graph.offsets) - 1
        base = [rng.randrange(2**63) for _ in range(12)]
        sets = [list({*rng.choices(base, k=rng.choice([3, 8, 30]))}) for _ in range(count)]
        buckets = [rng.sample(range(4), rng.randint(1, 2)) for _ in range(count)]
        listed = []
        for one in range(count):
            for other in range(one):
                shared = len({*sets[one]} & {*sets[other]})
                value = shared / len({*sets[one]} | {*sets[other]})
                alike = value >= threshold
                meet = bool({*buckets[one]} & {*buckets[other]})
                apart += alike and not meet
                if alike and meet:
                    listed.append((one, other, value))
        large = large_of(drawn.graph, sets, buckets, Dedup(threshold=threshold))
        expected = verdicts_of(drawn._replace(graph=joined(drawn.graph, listed)))
        assert verdicts_of(drawn._replace(graph=joined(drawn.graph, [])), large) == expected
        dropped += sum(verdict.method == "minhash" for verdict in expected.values())
    assert dropped > 100
    assert apart > (0 if threshold == 1.0 else 20)


@pytest.mark.parametrize("verify", ["exact", "signature"])
@pytest.mark.parametrize("budget", [0, 5])
def test_no_budget_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: str, budget: int
) -> None:
    """With every bucket large, or those of four sets and more, the stages do as the oracle."""
    monkeypatch.setattr(pairs, "_PAIRS_PER_BUCKET", budget)
    monkeypatch.setattr(pairs, "_BLOCK_BYTES", 40)
    monkeypatch.setattr(index, "_KEYS_PER_ROUND", 50)
    config = SMALL.model_copy(update={"verify": verify, "bands": 8})
    methods: set[str] = set()
    for seed in range(25):
        rng = random.Random(f"{verify}-{seed}")
        documents = random_texts(rng, rng.randint(2, 16))
        cuts = [rng.randint(0, len(documents)) for _ in range(rng.randint(0, 2))]
        tree = Tree(str(tmp_path / str(seed)))
        names = clean_parts(tree, spread(documents, cuts), config)
        expected = Oracle(documents, config).dropped()
        assert deduplicate(tree, names, config) == expected, seed
        methods |= {dropped.method for dropped in expected.values()}
    assert methods == set(METHODS)


def test_large_buckets_are_counted_and_not_paired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly equal texts: pairs, or, where the budget is less, members of large buckets."""
    documents = [Given(str(n), f"the same words in every text but for {n}") for n in range(5)]
    config = SMALL.model_copy(update={"ngram": 1, "threshold": 0.1, "bands": 40})
    tree = Tree(str(tmp_path))
    corpus = corpus_of(clean_parts(tree, spread(documents, [2]), config))
    shared = group_partition(tree, "g", corpus, (0, 1)).counts
    assert shared["large_buckets"] == 0
    assert shared["pairs"] > 0
    monkeypatch.setattr(pairs, "_PAIRS_PER_BUCKET", 0)
    counts = group_partition(tree, "g", corpus, (0, 1)).counts
    assert counts["pairs"] == 0
    assert counts["large_buckets"] > 1
    verified = verify_share(tree, "v", config, corpus, (0, 1, ["g"]))
    assert verified.counts["large_members"] == 5


def test_settled_documents_of_a_bucket_are_not_paired(tmp_path: Path) -> None:
    """Three settled and two new ones of one bucket: 3 * 2 + 1 pairs, which is its size."""
    candidates = Candidates(
        np.arange(5, dtype=np.uint64), np.arange(5, dtype=np.uint64), np.array([0, 5]),
        np.array([7]), 3,
    )  # fmt: skip
    (found,) = candidates.pairs()
    assert found.tolist() == [[0, 3], [0, 4], [1, 3], [1, 4], [2, 3], [2, 4], [3, 4]]


@pytest.mark.parametrize("budget", [0, 3])
@pytest.mark.parametrize("seed", range(6))
def test_chains_with_large_buckets_equal_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, budget: int
) -> None:
    """Settled parts, scopes and preferences: refreshed with large buckets, rebuilt without."""
    run_stages_here(monkeypatch)
    rng = random.Random(f"scale-{seed}")
    config = random_config(rng) | {"scope": ("corpus", "snapshot", "source")[seed % 3]}
    chain = Chain(tmp_path, config)
    monkeypatch.setattr(pairs, "_PAIRS_PER_BUCKET", budget)
    for delivery in random_deliveries(rng):
        last = chain.deliver(delivery)
    monkeypatch.setattr(pairs, "_PAIRS_PER_BUCKET", 2**15)
    rebuilt = chain.rebuild()
    compare_snapshots((chain.store, str(tmp_path / "rebuilt")), (last, rebuilt))


def test_survivors_that_are_alike_are_found_in_large_buckets(tmp_path: Path) -> None:
    """What the audit asks: a pair of one bucket that is alike is named, apart it is not."""
    documents = [Given("a", "one two three four"), Given("b", "one two three five"),
                 Given("c", "six seven eight")]  # fmt: skip
    config = SMALL.model_copy(update={"ngram": 1, "threshold": 0.6})
    tree = Tree(str(tmp_path))
    corpus = corpus_of(clean_parts(tree, spread(documents, []), config))
    rows = np.array([0, 0, 0]), np.arange(3, dtype=np.uint64)
    assert list(find_alike(tree, corpus, config, rows)) == [(1, 0, 0.6)]
    assert not list(find_alike(tree, corpus, config, (np.array([0, 1, 1]), rows[1])))


@pytest.mark.parametrize("verify", ["exact", "signature"])
def test_tokens_count_what_is_compared(tmp_path: Path, verify: str) -> None:
    """Common tokens of signatures are their equal positions."""
    documents = random_texts(random.Random(verify), 20)
    config = SMALL.model_copy(update={"verify": verify, "threshold": 1e-9, "bands": 16})
    tree = Tree(str(tmp_path))
    corpus = corpus_of(clean_parts(tree, spread(documents, []), config))
    numbers = np.arange(20, dtype=np.uint64)
    left, right = (each.copy() for each in np.triu_indices(20, 1))
    ends = left.astype(np.uint64), right.astype(np.uint64)
    oracle = Oracle(documents, config)
    places = sorted(oracle.texts)  # as rows are
    alike = {}
    for one, other, shared, total in compare(tree, corpus, ends, config).tolist():
        alike[one, other] = shared / total
    seen = 0
    for one, other in zip(left.tolist(), right.tolist(), strict=True):
        equal = oracle.signed[places[one]].signatures == oracle.signed[places[other]].signatures
        sets = oracle.sets[places[one]], oracle.sets[places[other]]
        if not all(sets):
            continue
        value = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        value = float(equal.mean()) if verify == "signature" else value
        assert alike.get((one, other), 0.0) == value
        seen += value > 0
    assert seen > 3
    assert (np.diff(read_tokens(Texts(tree, corpus), numbers, config).offsets) > 0).any()


def test_the_order_falls_back_on_strings() -> None:
    rng = random.Random(4)
    rows = [
        (rng.randrange(2), rng.randrange(2), rng.choice(["a", "é", "z", "\U0001f600", "\uffff"]),
         rng.choice("fg"), rng.randrange(3))
        for _ in range(300)
    ]  # fmt: skip
    first, second, ids, files, positions = zip(*rows, strict=True)
    places = pa.table(
        {
            "id": pa.array(ids, pa.large_string()),
            "file": pa.array(files).dictionary_encode(),
            "position": pa.array(positions),
        }
    )
    order = sort_places((np.array(first), np.array(second)), places)
    assert [rows[n] for n in order.tolist()] == sorted(rows)
    one = sort_places((np.zeros(300, np.int64),), places)
    assert [rows[n][2:] for n in one.tolist()] == sorted(row[2:] for row in rows)


def test_hashes_as_numbers_sort_as_bytes() -> None:
    rng = random.Random(5)
    values = [bytes(rng.choices([0, 1, 127, 128, 255], k=16)) for _ in range(50)]
    longer = pa.array([b"x" * 16, *values], pa.binary(16))
    for column in (pa.array(values, pa.binary(16)), longer[1:]):
        words = hash_words(pa.chunked_array([column[:20], column[20:]]))
        assert words.shape == (50, 2)
        assert sorted(range(50), key=lambda n: tuple(words[n].tolist())) == sorted(
            range(50), key=lambda n: values[n]
        )
    assert hash_words(pa.chunked_array([], pa.binary(16))).shape == (0, 2)


def test_equal_rows_have_equal_numbers() -> None:
    assert number_equal(np.array([3, 1, 3, 3]), np.array([0, 0, 1, 0])).tolist() == [1, 0, 2, 1]
    assert number_equal(np.empty(0)).tolist() == []


def test_candidates_are_the_least_document_of_each_set(tmp_path: Path) -> None:
    """Two documents of one set and one other in one bucket: one pair, from the lesser one."""
    documents = [Given("a", "x y z"), Given("b", "X y z"), Given("c", "x y")]
    config = SMALL.model_copy(update={"ngram": 1})
    tree = Tree(str(tmp_path))
    corpus = corpus_of(clean_parts(tree, spread(documents, [1]), config))
    numbers = [0, 1 << 32, 1 << 32 | 1]
    buckets = index.Buckets(
        np.zeros(3, np.int64), np.zeros(3, np.uint8), np.array(numbers, np.uint64)
    )
    found = [p.tolist() for p in find_candidates(tree, corpus, buckets).pairs()]
    assert found == [[[0, 1 << 32 | 1]]]
