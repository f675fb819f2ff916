"""An audit signs again, so a wrong index is found whatever its checksum, and holds few texts."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain_helpers import Chain, Delivery, prepare, random_deliveries

from corpus.files import create
from corpus.forgotten import Forgotten, forgotten_path, hash_id
from corpus.snapshots import Tree
from pipeline import audit_dedup, pairs
from pipeline.audit_dedup import check_duplicates, check_index, check_survivors
from pipeline.explain import Store, open_store
from pipeline.fetch import read_texts
from pipeline.index import Corpus, UInt64s
from pipeline.proofs import audit
from pipeline.signatures import write_arrow
from pipeline.stretch import open_arrow

CONFIG = {"threshold": 0.4, "bands": 12, "rows": 2, "ngram": 1, "partitions": 1}
LONG = "a text of its own that nobody else has ever written or read before today"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two deliveries with duplicates of every method, and one document that is like no other."""
    chain = Chain(tmp_path, CONFIG)
    deliveries = random_deliveries(random.Random(4))[:2]
    for each in deliveries:
        chain.deliver(each)
    copies = [
        {"id": "copy", "text": each["text"]} for each in next(iter(deliveries[0].files.values()))
    ]
    chain.deliver(Delivery("copies", {("b", "c.jsonl"): copies[:1]}))
    chain.deliver(Delivery("last", {("a", "l.jsonl"): [{"id": "alone", "text": LONG}]}))
    return open_store(chain.store)


def problems(store: Store) -> tuple[list[str], list[str], list[str]]:
    return list(check_index(store)), list(check_duplicates(store)), list(check_survivors(store))


def rows_of(store: Store) -> list[dict[str, Any]]:
    paths = [store.tree.find(f"duplicates/{part.name}.parquet") for part in store.snapshot.parts]
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_a_sound_store_passes(store: Store) -> None:
    assert {row["method"] for row in rows_of(store)} == {"same_id", "exact", "minhash"}
    assert problems(store) == ([], [], [])


def other_key(table: pa.Table) -> pa.Table:
    """Move one band key, in its place in the order."""
    key = table["key"].to_numpy().copy()
    key[3] += 1
    return table.set_column(0, "key", pa.array(key))


def one_less(table: pa.Table) -> pa.Table:
    return table.slice(1)


def other_value(name: str, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        values = [value, *table[name].to_pylist()[1:]]
        place = table.schema.get_field_index(name)
        field = table.schema.field(place)
        return table.set_column(place, field, pa.array(values, field.type))

    return change


@pytest.mark.parametrize(
    ("kind", "change", "found"),
    [
        ("keys", other_key, "another key"),
        ("keys", one_less, "another number of rows, 15 and not 14"),
        ("keys", other_value("band", 11), "another band"),
        ("documents", other_value("set_hash", bytes(16)), "another set_hash"),
        ("documents", other_value("text_hash", bytes(16)), "another text_hash"),
        ("documents", other_value("text_bytes", 7), "another text_bytes"),
        ("documents", other_value("preference", b"\x01" * 24), "another preference"),
        ("documents", lambda table: table.rename_columns(["x", *table.column_names[1:]]), "schema"),
    ],
)
def test_a_wrong_index_is_found(
    store: Store, kind: str, change: Callable[[pa.Table], pa.Table], found: str
) -> None:
    """Nothing is like the document whose entry is changed: only signing again can tell."""
    part = store.snapshot.parts[-1]
    path = f"index/{part.name}.{kind}.arrow"
    table = open_arrow(store.tree.find(path)).combine_chunks()
    whole = pa.Table.from_pylist(table.to_pylist(), schema=table.schema)  # free of the mapped file
    write_arrow(store.tree.find(path), change(whole))
    (problem,) = check_index(store)
    assert problem.startswith(f"{path}: its documents signed again give another ")
    assert problem.endswith(found)


def test_a_wrong_hash_of_a_text_is_found(store: Store) -> None:
    """It stands in the documents and is copied into the index: both agree and both are wrong."""
    part = store.snapshot.parts[-1]
    paths = [f"clean/{part.name}.parquet", f"index/{part.name}.documents.arrow"]
    change = other_value("text_hash", bytes(16))
    pq.write_table(change(pq.read_table(store.tree.find(paths[0]))), store.tree.find(paths[0]))
    index = open_arrow(store.tree.find(paths[1]))
    whole = pa.Table.from_pylist(index.to_pylist(), schema=index.schema)
    write_arrow(store.tree.find(paths[1]), change(whole))
    assert any(problem.endswith("another text_hash") for problem in check_index(store))


def test_a_whole_audit_goes_on_without_a_wrong_index(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum may be right; what would rest on it is left out, and said to be."""
    part = store.snapshot.parts[-1]
    path = store.tree.find(f"index/{part.name}.keys.arrow")
    table = open_arrow(path)
    write_arrow(path, pa.Table.from_pylist(table.to_pylist(), schema=table.schema).slice(1))
    assert any("has checksum" in each or "bytes" in each for each in audit(store).problems)
    monkeypatch.setattr("pipeline.proofs._check_files", lambda *_: ())
    found = audit(store)
    assert len(found.problems) == 1
    assert found.not_checked == ["duplicates and survivors, as their index is wrong"]


def test_what_was_taken_down_and_is_still_held_is_found(store: Store) -> None:
    """As a killed take-down leaves it, with the remedy."""
    listed = Forgotten(ids=frozenset({hash_id("a/alone")}))
    create(forgotten_path(store.root, "t"), listed.to_bytes())
    (problem, *_) = audit(store).problems
    assert f"part {store.snapshot.parts[-1].name}: holds documents that were taken" in problem
    assert "run it again" in problem


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "row": ({"row": 10**6}, "there is no such document"),
    "id": ({"id": "a/nobody"}, "there is no such document"),
    "witness": ({"witness_position": 999}, "there is no such document"),
    "method": ({"method": "guessed"}, "there is no method guessed"),
    "similarity": ({"similarity": 0.123}, "their similarity is "),
    "exact": ({"method": "exact"}, "their normalized texts differ"),
    "same_id": ({"method": "same_id"}, "their ids differ"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_duplicate_is_found(store: Store, fault: str) -> None:
    change, message = FAULTS[fault]
    for part in store.snapshot.parts:
        path = store.tree.find(f"duplicates/{part.name}.parquet")
        table = pq.read_table(path)
        rows = table.to_pylist()
        near = [row for row in rows if row["method"] == "minhash" and row["similarity"] < 1]
        if near:
            near[0].update(change)
            pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
            break
    found = list(check_duplicates(store))
    assert any(message in problem for problem in found)
    assert any("drop rows" in problem for problem in found) == (fault != "row")


def test_a_row_that_no_part_has_does_not_end_an_audit(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = next(each for each in store.snapshot.parts if each.kept < each.documents)
    path = store.tree.find(f"duplicates/{part.name}.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["row"] = 10**6
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    monkeypatch.setattr("pipeline.proofs._check_files", lambda *_: ())
    found = audit(store).problems
    assert any("there is no such document" in each for each in found)
    assert any("kept documents, expected" in each for each in found)


def test_texts_are_held_a_block_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no room for a second pair, no more than the texts of one are read together."""
    held: list[int] = []

    def counting(tree: Tree, corpus: Corpus, documents: UInt64s) -> Iterator[tuple[int, str]]:
        held.append(len(documents))
        return read_texts(tree, corpus, documents)

    monkeypatch.setattr(audit_dedup, "read_texts", counting)
    assert list(check_duplicates(store)) == []
    rows = rows_of(store)
    ends = {tuple(row[p + k] for k in _PLACE) for row in rows for p in ("", "witness_")}
    assert held == [len(ends)]
    held.clear()
    monkeypatch.setattr(pairs, "_BLOCK_BYTES", 0)
    assert list(check_duplicates(store)) == []
    assert held == [2] * len(rows)


_PLACE = ("id", "snapshot", "file", "position")
