"""Texts brought together for verification: the same pairs, every part read once."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from chain_helpers import Chain, Delivery, compare_snapshots, prepare
from stage_helpers import clean_parts, corpus_of, random_texts, spread
from test_pairs import CONFIG

from corpus.files import list_names, read_range
from corpus.recipe import MEMORY_BYTES
from corpus.snapshots import Tree
from pipeline import fetch, parquet, stretch
from pipeline.fetch import (
    FETCHED_SCHEMA,
    Texts,
    fetch_texts,
    read_rounds,
    read_texts,
    share_starts,
)
from pipeline.index import ROW_BITS, Corpus
from pipeline.pairs import PAIR_SCHEMA, _pairs_of, group_partition, verify_share
from pipeline.refresh import refresh
from pipeline.signatures import write_arrow
from pipeline.stretch import open_arrow

TASKS = 3
GROUPS = ["g0", "g1"]


@pytest.fixture
def grouped(tmp_path: Path) -> tuple[Tree, Corpus]:
    """Five parts, an empty one among them, and their candidate pairs."""
    documents = random_texts(random.Random("fetch"), 90)
    tree = Tree(str(tmp_path))
    corpus = corpus_of(clean_parts(tree, spread(documents, [20, 20, 45, 70]), CONFIG))
    for number, group in enumerate(GROUPS):
        group_partition(tree, group, corpus, (number, len(GROUPS)))
    return tree, corpus


def fetch_all(tree: Tree, corpus: Corpus, memory_bytes: int = MEMORY_BYTES) -> list[str]:
    """Fetch for three tasks, by a task for every two parts."""
    spans = pairwise([*range(0, len(corpus.parts), 2), len(corpus.parts)])
    outputs = [
        fetch_texts(tree, f"f{first}", corpus, (first, stop), (TASKS, GROUPS), memory_bytes)
        for first, stop in spans
    ]
    return [path for output in outputs for path in output.paths]


def test_each_task_gets_what_is_second_in_its_pairs(grouped: tuple[Tree, Corpus]) -> None:
    tree, corpus = grouped
    paths = fetch_all(tree, corpus)
    assert len(paths) == len(set(paths)) == 3
    rows = []
    for path in paths:
        table = open_arrow(tree.own(path))
        assert table.schema == FETCHED_SCHEMA
        held = list(zip(table["task"].to_pylist(), table["document"].to_pylist(), strict=True))
        assert held == sorted(set(held))
        rows += held
    expected = {
        (task, document)
        for task in range(TASKS)
        for document in _pairs_of(tree, task, TASKS, GROUPS).right.tolist()
    }
    assert len(expected) > 30
    assert sorted(rows) == sorted(expected)
    assert len({document for _, document in expected}) < len(expected)  # some are wanted twice


@pytest.mark.parametrize("memory_bytes", [MEMORY_BYTES, 1])
def test_the_same_pairs_are_alike(grouped: tuple[Tree, Corpus], memory_bytes: int) -> None:
    """Also where every text is a file of its own, as little as it holds."""
    tree, corpus = grouped
    paths = fetch_all(tree, corpus, memory_bytes)
    assert (len(paths) > 20) == (memory_bytes == 1)
    alike = 0
    for number in range(TASKS):
        share = (number, TASKS, GROUPS)
        plain = verify_share(tree, "plain", CONFIG, corpus, share)
        found = verify_share(tree, "fetched", CONFIG, corpus, share, paths)
        assert found.counts == plain.counts
        for one, other in zip(plain.paths, found.paths, strict=True):
            assert open_arrow(tree.own(one)) == open_arrow(tree.own(other))
        alike += plain.counts["verified"]
    assert alike > 20


def test_a_part_is_read_once(grouped: tuple[Tree, Corpus], monkeypatch: pytest.MonkeyPatch) -> None:
    """By fetch; verify asks for what is first in its pairs alone."""
    tree, corpus = grouped
    asked: list[tuple[str, int]] = []

    def counted(path: str, rows: np.ndarray, column: str) -> object:
        asked.extend((path, row) for row in rows.tolist())
        return parquet.read_rows(path, rows, column)

    monkeypatch.setattr(fetch, "read_rows", counted)
    paths = fetch_all(tree, corpus)
    assert len(asked) == len(set(asked))
    rights = {each for pairs in read_rounds(tree, GROUPS, "pairs") for each in pairs.right.tolist()}
    assert len(asked) == len(rights)
    asked.clear()
    for number in range(TASKS):
        pairs = _pairs_of(tree, number, TASKS, GROUPS)
        verify_share(tree, "v", CONFIG, corpus, (number, TASKS, GROUPS), paths)
        assert len(asked) == len(set(pairs.left.tolist()) - set(pairs.right.tolist()))
        asked.clear()


def test_texts_from_both_places_come_in_order(grouped: tuple[Tree, Corpus]) -> None:
    tree, corpus = grouped
    documents = np.array(
        [part << ROW_BITS | row for part in (0, 2, 3, 4) for row in range(20)], np.uint64
    )
    expected = [text for _, text in read_texts(tree, corpus, documents)]
    texts = Texts(tree, corpus, 1, fetch_all(tree, corpus))
    assert 0 < np.isin(documents, texts._documents).sum() < len(documents)
    assert texts.read(documents) == expected
    assert texts.read(documents[:0]) == []
    assert Texts(tree, corpus).read(documents) == expected


def test_no_pairs_no_texts(tmp_path: Path) -> None:
    tree, corpus = Tree(str(tmp_path)), corpus_of(["p"])
    for kind in ("pairs", "rights"):
        write_arrow(tree.own(f"work/group/g.{kind}.arrow"), PAIR_SCHEMA.empty_table())
    output = fetch_texts(tree, "f", corpus, (0, 1), (2, ["g"]))
    assert (output.paths, output.counts) == ((), {"texts": 0, "copies": 0})


@pytest.mark.parametrize("pairs", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("tasks", [1, 2, 5, 64])
def test_shares_have_no_gap_and_no_overlap(tmp_path: Path, pairs: int, tasks: int) -> None:
    """Fetch and verify agree on the task of every pair, whatever their number."""
    rng = np.random.default_rng(pairs)
    left = np.sort(rng.integers(0, 50 if pairs < 10 else 10**6, pairs, np.uint64))
    table = pa.table([left, left + np.uint64(1)], schema=PAIR_SCHEMA)
    tree = Tree(str(tmp_path))
    write_arrow(tree.own("work/group/g.pairs.arrow"), table)
    starts = share_starts(read_rounds(tree, ["g"], "pairs"), tasks)
    assert (np.diff(starts.astype(np.int64)) >= 0).all()
    assert starts[0] == 0
    for number in range(tasks):
        mine = _pairs_of(tree, number, tasks, ["g"]).left
        task = np.searchsorted(starts, left, side="right") - 1
        assert mine.tolist() == np.unique(left[task == number]).tolist()


def test_a_refresh_that_fetches_equals_a_rebuild_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    texts = [" ".join(f"w{(n * 7 + k) % 40}" for k in range(9)) for n in range(30)]
    records = [
        {"id": f"{n}-{turn}", "text": f"{text} {'again' * turn}"}
        for turn in range(2)
        for n, text in enumerate(texts)
    ]
    config = {"threshold": 0.6, "bands": 60, "rows": 1, "ngram": 1, "partitions": 2}
    chain = Chain(tmp_path, config)
    recipe = chain.recipe(Delivery("s1", {("a", f"{n}.jsonl"): records[n::4] for n in range(4)}))
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "LEAST_PAIRS", 1)
        outcome = refresh(recipe)
    assert outcome.stage_seconds.keys() >= {"group", "fetch", "verify"}
    assert outcome.snapshot.counts.documents_dropped["minhash"] > 20
    names = list_names(f"{chain.store}/snapshots/s1")
    assert not [name for name in names if "fetch" in name]
    rebuilt = chain.rebuild()
    compare_snapshots((chain.store, f"{tmp_path}/rebuilt"), (outcome.snapshot, rebuilt))


def test_of_files_in_a_bucket_a_task_reads_its_own_texts(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    texts = [rng.randbytes(300).hex() for _ in range(2000)]
    data = [zstandard.compress(text.encode()) for text in texts]
    tasks = [n // 20 for n in range(2000)]
    table = pa.table([tasks, list(range(2000)), data], schema=FETCHED_SCHEMA)
    tree = Tree(remote)
    write_arrow(tree.own("work/fetch/f.arrow"), table)
    asked: list[int] = []

    def counting(path: str, start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return read_range(path, start, stop)

    monkeypatch.setattr(stretch, "read_range", counting)
    documents = np.arange(140, 160, dtype=np.uint64)
    found = Texts(tree, corpus_of(["p"]), 7, ["work/fetch/f.arrow"])
    assert found.read(documents) == texts[140:160]
    ends, of_tasks, own = 2 * stretch._END_BYTES, 4 * 2000, sum(map(len, data[140:160]))
    assert sum(asked) <= ends + of_tasks + own + 21 * 16
    assert sum(asked) < sum(map(len, data)) / 10
