"""Who stays: the stages against a brute-force oracle, and the properties that the rule promises."""

import csv
import gzip
import io
import itertools
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_helpers import (
    Dropped,
    Given,
    Oracle,
    Place,
    clean_parts,
    deduplicate,
    spread,
    table_rows,
)

from corpus.documents import text_hash
from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline import dedup, index, order, pairs
from pipeline.dedup import METHODS, Node, Verdict, first_independent_set
from pipeline.walk import Graph, Large, Verdicts

# Few rows a band and short shingles, so that small texts have edges of every kind.
SMALL = Dedup(bands=6, rows=1, ngram=2, threshold=0.4, partitions=1)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def outcome(
    documents: Sequence[Given], config: Dedup, cuts: Sequence[int] = ()
) -> dict[Place, Dropped]:
    """Return what the stages drop of documents cut into parts."""
    with tempfile.TemporaryDirectory() as root:
        tree = Tree(root)
        return deduplicate(tree, clean_parts(tree, spread(documents, cuts), config), config)


def random_corpus(rng: random.Random) -> list[Given]:
    """Return documents with ties, chains, shared ids, and one set under several texts."""
    words = [f"{rng.choice('abcdefgh')}" for _ in range(12)]
    documents: list[Given] = []
    for n in range(rng.randint(1, 14)):
        kind = rng.random()
        text = " ".join(rng.choices(words, k=rng.randint(1, 9)))
        if documents and kind < 0.45:
            text = changed(rng, rng.choice(documents).text, words)
        key = rng.choice(documents).key if documents and rng.random() < 0.15 else f"{n}"
        documents.append(Given(key, text))
    return documents


def changed(rng: random.Random, text: str, words: list[str]) -> str:
    """Return a text that is the same, equal but for its form, or differs in a word or two."""
    kind = rng.randrange(6)
    if kind == 0:
        return text
    if kind == 1:
        return text.upper().replace(" ", "  ")
    if kind == 2:
        return text.replace(" ", ", ") + "."
    parts = text.split()
    place = rng.randrange(len(parts) + 1)
    return " ".join([*parts[:place], rng.choice(words), *parts[place + (kind == 3) :]])


CONFIGS = [
    SMALL,
    SMALL.model_copy(update={"partitions": 4}),
    SMALL.model_copy(update={"threshold": 1.0, "ngram": 1}),
    SMALL.model_copy(update={"threshold": 0.6, "bands": 3, "rows": 2, "partitions": 2}),
    SMALL.model_copy(update={"verify": "signature", "bands": 8}),
    SMALL.model_copy(update={"ngram": 4, "threshold": 0.2}),
]


def corpora(seed: int, count: int) -> Iterator[tuple[list[Given], list[int], random.Random]]:
    for n in range(count):
        rng = random.Random(f"{seed}-{n}")
        documents = random_corpus(rng)
        cuts = [rng.randint(0, len(documents)) for _ in range(rng.randint(0, 3))]
        yield documents, cuts, rng


@pytest.mark.parametrize("number", range(len(CONFIGS)))
def test_the_stages_do_what_the_rule_says(number: int) -> None:
    methods: set[str] = set()
    for documents, cuts, _ in corpora(number, 40):
        expected = Oracle(documents, CONFIGS[number]).dropped()
        assert outcome(documents, CONFIGS[number], cuts) == expected, (documents, cuts)
        methods |= {dropped.method for dropped in expected.values()}
    assert methods == set(METHODS)


WORDS = st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(" ".join)
DOCUMENTS = st.lists(
    st.builds(
        Given, st.sampled_from("uvwxyz"), WORDS | WORDS.map(str.upper) | WORDS.map("{}!".format)
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=50)
@given(DOCUMENTS, st.lists(st.integers(0, 8), max_size=2), st.sampled_from(CONFIGS))
def test_the_stages_do_what_the_rule_says_on_nasty_corpora(
    documents: list[Given], cuts: list[int], config: Dedup
) -> None:
    cuts = [min(cut, len(documents)) for cut in cuts]
    assert outcome(documents, config, cuts) == Oracle(documents, config).dropped()


def test_what_the_rule_promises() -> None:
    """Checked on the result, not on how it came about."""
    seen = 0
    for documents, cuts, _ in corpora(100, 40):
        dropped = outcome(documents, SMALL, cuts)
        oracle = Oracle(documents, SMALL)
        kept = set(oracle.texts) - set(dropped)
        assert kept
        assert not any(oracle.edge(*pair) for pair in itertools.combinations(sorted(kept), 2))
        for place, verdict in dropped.items():
            neighbours = [other for other in kept if oracle.edge(place, other)]
            assert verdict.witness == min(neighbours, key=oracle.order)
            assert oracle.order(verdict.witness) < oracle.order(place)
            seen += len(neighbours) > 1
    assert seen > 20


def connected_components(graph: Graph, _large: Large) -> Verdicts:
    """Keep one document of each cluster, as most deduplicators do: what must not happen."""
    count = len(graph.identity)
    leader = list(range(count))

    def joined(one: int, other: int) -> bool:
        first, second = int(graph.shingles[one]), int(graph.shingles[other])
        near = graph.neighbour[graph.offsets[first] : graph.offsets[first + 1]]
        return bool(
            graph.identity[one] == graph.identity[other]
            or graph.text[one] == graph.text[other]
            or (first >= 0 and (first == second or second in near.tolist()))
        )

    for one, other in itertools.combinations(range(count), 2):
        if joined(one, other):
            old = (leader[one], leader[other])
            leader = [min(old) if each in old else each for each in leader]
    witness = np.array([-1 if leader[n] == n else leader[n] for n in range(count)], np.int64)
    return Verdicts(witness, np.full(count, 2, np.int8), np.ones(count))


def test_connected_components_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedup, "walk", connected_components)
    differing = 0
    for documents, cuts, _ in corpora(0, 30):
        found = set(outcome(documents, SMALL, cuts))
        differing += found != set(Oracle(documents, SMALL).dropped())
    assert differing > 3


def test_the_order_of_arrival_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two documents of one text: which goes must follow from their ids, not their parts."""
    documents = [
        Given("b", "one two three"),
        Given("a", "One, two three"),
        Given("c", "one two three"),
    ]

    def kept(cuts: Sequence[int], order: Sequence[int]) -> list[int]:
        with tempfile.TemporaryDirectory() as root:
            tree, parts = Tree(root), spread(documents, cuts)
            names = clean_parts(tree, [parts[n] for n in order], SMALL)
            dropped = deduplicate(tree, names, SMALL)
        return sorted({1, 2, 3} - {place[2] for place in dropped})

    spreads = [((), (0,)), ((1, 2), (0, 1, 2)), ((1, 2), (2, 1, 0)), ((1, 2), (1, 2, 0))]
    right = [kept(*each) for each in spreads]
    assert right == [right[0]] * len(spreads)
    monkeypatch.setattr(order, "sort_places", lambda columns, _: np.arange(len(columns[0])))
    wrong = [kept(*each) for each in spreads]
    assert wrong != [wrong[0]] * len(spreads)


def test_partitions_parts_and_their_order_do_not_show() -> None:
    for number, (documents, cuts, rng) in enumerate(corpora(200, 16)):
        expected = outcome(documents, SMALL)
        for partitions in (1, 4, 64) if number == 5 else (1, 4):
            config = SMALL.model_copy(update={"partitions": partitions})
            parts = spread(documents, cuts)
            rng.shuffle(parts)
            numbered = [pair for part in parts for pair in part]
            rng.shuffle(numbered)
            with tempfile.TemporaryDirectory() as root:
                names = clean_parts(Tree(root), parts, config)
                assert deduplicate(Tree(root), names, config) == expected
            with tempfile.TemporaryDirectory() as root:
                names = clean_parts(Tree(root), [numbered[:3], numbered[3:]], config)
                assert deduplicate(Tree(root), names[::-1], config) == expected


def test_blocks_and_rounds_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [outcome(documents, SMALL, cuts) for documents, cuts, _ in corpora(300, 15)]
    monkeypatch.setattr(pairs, "_BLOCK_BYTES", 10)
    monkeypatch.setattr(index, "_KEYS_PER_ROUND", 5)
    monkeypatch.setattr(pairs, "_PAIRS_PER_ROUND", 1)
    assert [outcome(documents, SMALL, cuts) for documents, cuts, _ in corpora(300, 15)] == expected


def chain() -> list[Given]:
    """A ~ B ~ C at similarity 2/3 and 2/3, A and C at 3/7, in the order A, B, C."""
    for salt in range(1000):
        words = [f"{letter}{salt}" for letter in "abcdefg"]
        texts = [" ".join(words[:5]), " ".join(words[:6]), " ".join(words[1:6])]
        if sorted(texts, key=text_hash) == texts:
            return [Given(name, text) for name, text in zip("ABC", texts, strict=True)]
    raise AssertionError


def test_a_chain_keeps_both_its_ends() -> None:
    """Shingles ab bc cd de | ab bc cd de ef | bc cd de ef: 4/5, 4/5 and 3/5."""
    config = Dedup(bands=32, rows=1, ngram=2, threshold=0.7, partitions=1)
    assert outcome(chain(), config) == {("s/B", "f", 2): Dropped("minhash", 0.8, ("s/A", "f", 1))}
    assert set(outcome(chain(), config.model_copy(update={"threshold": 0.8}))) == {("s/B", "f", 2)}
    assert outcome(chain(), config.model_copy(update={"threshold": 0.81})) == {}
    assert len(outcome(chain(), config.model_copy(update={"threshold": 0.6}))) == 2


def node(order: int, identity: str, group: str | None, document: int) -> Node:
    set_hash = None if group is None else group.encode()
    text_hash = bytes([order]) * 16
    return Node(0, b"", text_hash, identity, "f", document, set_hash, "", "first", document)


def test_the_rule_by_hand() -> None:
    """a - b - c - d - e, in the order c, a, e, b, d: c stays first, b and d go, a and e stay."""
    edges = [("a", "b", 0.9), ("b", "c", 0.8), ("c", "d", 0.85), ("d", "e", 1.0)]
    neighbours: dict[bytes, dict[bytes, float]] = {}
    for one, other, similarity in edges:
        neighbours.setdefault(one.encode(), {})[other.encode()] = similarity
        neighbours.setdefault(other.encode(), {})[one.encode()] = similarity
    nodes = {letter: node("caebd".index(letter), letter, letter, n)
             for n, letter in enumerate("abcde")}  # fmt: skip
    for permutation in itertools.permutations(nodes.values()):
        assert first_independent_set(permutation, neighbours) == {
            nodes["b"].document: Verdict(nodes["c"], "minhash", 0.8),
            nodes["d"].document: Verdict(nodes["c"], "minhash", 0.85),
        }


def test_the_first_method_that_holds_is_named() -> None:
    """One pair that is alike in every way, and a first neighbour that wins over a better method."""
    first, second = node(1, "x", "g", 1), node(1, "x", "g", 2)
    assert first_independent_set([second, first], {}) == {2: Verdict(first, "same_id", None)}
    second = second._replace(id="y")
    assert first_independent_set([second, first], {}) == {2: Verdict(first, "exact", 1.0)}
    second = second._replace(text_hash=b"z" * 16)
    assert first_independent_set([second, first], {}) == {2: Verdict(first, "minhash", 1.0)}
    near, same = node(1, "p", "g", 1), node(2, "q", None, 2)
    last = node(3, "q", "h", 3)
    similar = {b"g": {b"h": 0.9}, b"h": {b"g": 0.9}}
    assert first_independent_set([last, same, near], similar) == {3: Verdict(near, "minhash", 0.9)}


def test_who_goes_first_by_hand() -> None:
    """The first field that differs decides: delivery, preference, hash, id, file, position."""
    last = Node(1, b"1", b"1" * 16, "b", "b", 1, None, "", "first", 0)
    steps: dict[str, Any] = {
        "position": 0, "file": "a", "id": "a", "text_hash": b"0" * 16, "preference": b"0",
        "delivery": 0,
    }  # fmt: skip
    worst = Node(1, b"9", b"9" * 16, "z", "z", 9, None, "", "first", 0)
    order, fields = [last], list(steps)
    for number, field in enumerate(fields):
        later = {name: getattr(worst, name) for name in fields[:number]}
        order.append(last._replace(**later, **{field: steps[field]}))
    assert sorted(order) == order[::-1]


def test_documents_of_two_scopes_are_not_compared() -> None:
    """One id, text and set in both; within each scope the earlier delivery stays."""
    one, other = node(1, "x", "g", 1), node(1, "x", "g", 2)._replace(scope="source b")
    later = [each._replace(delivery=1, document=each.document + 2) for each in (one, other)]
    assert first_independent_set([*later, other, one], {}) == {
        3: Verdict(one, "same_id", None), 4: Verdict(other, "same_id", None),
    }  # fmt: skip
    similar = {b"g": {b"h": 0.9}, b"h": {b"g": 0.9}}
    near = node(2, "y", "h", 5)
    assert set(first_independent_set([one, near], similar)) == {5}
    assert first_independent_set([one, near._replace(scope="source b")], similar) == {}


def test_short_documents_take_part_in_exact_deduplication_only() -> None:
    documents = [Given("a", "x y"), Given("b", "X  y"), Given("c", "x, y"), Given("d", "x y z")]
    config = SMALL.model_copy(update={"ngram": 3})
    dropped = outcome(documents, config)
    assert len(dropped) == 1
    ((place, verdict),) = dropped.items()
    assert {place[0], verdict.witness[0]} == {"s/a", "s/b"}
    assert verdict.method == "exact"


def test_equal_sets_of_other_texts_are_near_duplicates() -> None:
    documents = [Given("a", "one two three four"), Given("b", "One two -- three four!")]
    ((_, verdict),) = outcome(documents, Dedup(ngram=2, partitions=1)).items()
    assert (verdict.method, verdict.similarity) == ("minhash", 1.0)


def test_drops_of_an_estimate_are_labelled(tmp_path: Path) -> None:
    """A near pair, an exact pair and a shared id; only the near pair is an estimate."""
    near = " ".join(f"w{n}" for n in range(40))
    documents = [
        Given("a", near), Given("b", near + " more"), Given("c", "short"), Given("d", "SHORT"),
        Given("e", "other"), Given("e", "another"),
    ]  # fmt: skip
    found = {}
    for verify in ("exact", "signature"):
        config = Dedup(partitions=1, ngram=2, verify=verify)
        tree = Tree(str(tmp_path / verify))
        (name,) = clean_parts(tree, spread(documents, ()), config)
        deduplicate(tree, [name], config)
        rows = table_rows(tree.find(f"dropped/{name}.dedup.parquet"))
        assert {row["stage"] for row in rows} == {"dedup"}
        assert {row["source"] for row in rows} == {"s"}
        found[verify] = {row["rule"]: row for row in rows}
        assert {rule: row["threshold"] for rule, row in found[verify].items()} == {
            "minhash": 0.8, "exact": None, "same_id": None,
        }  # fmt: skip
    assert {row["detail"] for row in found["exact"].values()} == {None}
    assert {rule: row["detail"] for rule, row in found["signature"].items()} == {
        "minhash": "estimated from signatures", "exact": None, "same_id": None,
    }  # fmt: skip
    assert found["exact"]["minhash"]["value"] == 39 / 40
    estimate = found["signature"]["minhash"]["value"]
    assert 0.9 < estimate < 1
    assert estimate * 256 == int(estimate * 256)


def test_similarity_at_the_threshold_counts() -> None:
    """4 of 5 shingles: 4 / 5 is the float64 0.8."""
    documents = [Given("a", "a b c d e"), Given("b", "a b c d e f")]
    config = Dedup(bands=64, rows=1, ngram=2, threshold=0.8, partitions=1)
    assert len(outcome(documents, config)) == 1
    assert outcome(documents, config.model_copy(update={"threshold": np.nextafter(0.8, 1)})) == {}


@pytest.fixture(scope="module")
def editions(shared_data: Path) -> list[Given]:
    path = shared_data / "neardup" / "gutenberg-editions.jsonl.zst"
    if not path.exists():
        pytest.skip(f"no {path}")
    with zstandard.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    return [Given(row["id"], row["text"]) for row in rows]


def read_pairs(path: Path) -> dict[tuple[str, str], float]:
    text = gzip.decompress(path.read_bytes()).decode()
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    return {(row["id_a"], row["id_b"]): float(row["jaccard_word5"]) for row in rows}


@pytest.mark.slow
def test_real_editions_against_an_independent_jaccard(
    editions: list[Given], shared_data: Path, tmp_path: Path
) -> None:
    """Its Jaccard of lower-cased word 5-grams was computed by others, with the same words."""
    known = read_pairs(shared_data / "neardup" / "gutenberg-editions.pairs.tsv.gz")
    config = Dedup(partitions=2)
    tree = Tree(str(tmp_path))
    names = clean_parts(tree, spread(editions, [1500, 3000]), config)
    dropped = {place[0][2:]: verdict for place, verdict in
               deduplicate(tree, names, config).items()}  # fmt: skip
    checked = 0
    for key, verdict in dropped.items():
        other = verdict.witness[0][2:]
        assert other not in dropped
        assert verdict.similarity is not None and verdict.similarity >= 0.8
        similarity = known.get((key, other), known.get((other, key)))
        if similarity is not None:
            checked += 1
            assert similarity == pytest.approx(verdict.similarity, abs=2e-6)
    assert checked > 2000
    alike = [pair for pair, similarity in known.items() if similarity >= 0.8]
    resolved = sum(one in dropped or other in dropped for one, other in alike)
    print(f"{len(dropped)} dropped, {checked} of them checked; {resolved} of {len(alike)} pairs")
    # All of them when last seen; 32 x 8 finds 99.7 % at exactly 0.8, so one may miss every band.
    assert resolved >= len(alike) - 1
