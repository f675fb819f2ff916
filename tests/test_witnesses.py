"""Witnesses as numbers: what they say is what the duplicates tables say, rows taken out or not."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from corpus.documents import DUPLICATE_SCHEMA
from corpus.snapshots import Part, Tree
from pipeline.index import ROW_BITS, Corpus
from pipeline.parquet import write_table
from pipeline.witnesses import Place, hash_places, read_witnesses, rows_after


def duplicate(row: int, witness: Place) -> dict[str, Any]:
    """Return a row of a duplicates table; what it says of the document itself does not matter."""
    snapshot, source, file, position = witness
    return {
        "row": row, "id": f"s/{row}", "snapshot": "a", "file": "f", "position": row,
        "method": "exact", "similarity": 1.0, "witness_id": f"{source}/x/{position}",
        "witness_snapshot": snapshot, "witness_file": file, "witness_position": position,
    }  # fmt: skip


def test_rows_move_up_where_others_are_taken_out() -> None:
    rows, removed = np.array([0, 3, 4, 9]), np.array([1, 2, 5])
    assert rows_after(rows, removed).tolist() == [0, 1, 2, 6]


def test_places_that_differ_in_any_part_have_different_hashes() -> None:
    """Also where the strings run together to the same characters."""
    places = [
        ("a", "s", "f", 1), ("b", "s", "f", 1), ("a", "t", "f", 1), ("a", "s", "g", 1),
        ("a", "s", "f", 2), ("as", "", "f", 1), ("a", "sf", "", 1), ("a", "s", "f1", 0),
        ("a", "s", "f", 11), ("a", "s", "f1", 1),
    ]  # fmt: skip
    assert len(set(hash_places(places).tolist())) == len(places)
    assert hash_places(places[3:4])[0] == hash_places(places)[3]
    assert len(hash_places([])) == 0


def test_they_say_what_the_tables_say(tmp_path: Path) -> None:
    rng = random.Random(1)
    tree = Tree(str(tmp_path))
    parts = [Part(f"s-{n}", "s", "a", 0) for n in range(4)]
    witnesses = [("a", f"s{n % 2}", f"f/{n % 3}", n) for n in range(7)]
    removed = {"s-1": np.array([2, 5, 6, 11]), "s-3": np.array([0])}
    led: dict[Place, set[int]] = {witness: set() for witness in witnesses}
    dropped = set()
    for number, part in enumerate(parts):
        rows = sorted(rng.sample(range(40), 25)) if number != 2 else []
        table = [duplicate(row, rng.choice(witnesses)) for row in rows]
        write_table(
            tree.own(f"duplicates/{part.name}.parquet"),
            pa.Table.from_pylist(table, schema=DUPLICATE_SCHEMA),
        )
        gone = removed.get(part.name, np.empty(0, np.int64)).tolist()
        for row in table:
            if row["row"] not in gone:
                before = sum(each < row["row"] for each in gone)
                document = number << ROW_BITS | (row["row"] - before)
                dropped.add(document)
                place = (row["witness_snapshot"], row["witness_id"].split("/")[0],
                         row["witness_file"], row["witness_position"])  # fmt: skip
                led[place].add(document)
    found = read_witnesses(tree, Corpus(tuple(parts), 0), removed)
    assert set(found.documents.tolist()) == dropped
    assert found.documents.tolist() == sorted(dropped)
    for document in range(4 << ROW_BITS, (4 << ROW_BITS) + 3):
        assert not found.is_dropped(document)
    assert all(found.is_dropped(document) for document in dropped)
    assert not found.is_dropped(2 << ROW_BITS)
    for witness in witnesses:
        assert set(found.led_by(hash_places([witness])).tolist()) == led[witness]
    several = set(found.led_by(hash_places(witnesses[:3])).tolist())
    assert several == set().union(*(led[witness] for witness in witnesses[:3]))
    assert found.led_by(hash_places([("z", "s", "f", 0)])).tolist() == []
