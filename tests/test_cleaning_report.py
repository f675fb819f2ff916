"""The documents nearest to a threshold: by hand, and as sorting all of them would find them."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pytest
from stage_helpers import table_rows

from corpus.documents import DOCUMENT_SCHEMA, drop_row, drops_table
from corpus.recipe import Clean, Recipe, Source
from corpus.snapshots import Snapshot, Tree
from pipeline import cleaning_report
from pipeline.explain import Store
from pipeline.judging import statistics_table
from pipeline.parquet import write_table
from pipeline.rules import BY_NAME, thresholds
from pipeline.samples import rank

RECIPE = Recipe(
    store="s", snapshot="d", sources=(Source(name="s", paths=("x",)),),
    clean=Clean(rules=("gopher_quality",)),
)  # fmt: skip
LIMITS = thresholds(RECIPE.clean)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A part of 200 documents, some of them no prose at all, and as many drops of two rules."""
    tree = Tree(str(tmp_path))
    texts = [
        " ".join(["the", "have", *["word" * (1 + n % 4)] * (20 + 3 * n), *["#"] * (n % 9)])
        for n in range(200)
    ]
    rows = [
        {"id": f"s/{n}", "text": text, "source": "s", "snapshot": "d", "file": "x", "position": n,
         "text_hash": bytes(16)}
        for n, text in enumerate(texts)
    ]  # fmt: skip
    write_table(tree.own("clean/x.parquet"), pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA))
    rules = ("gopher_min_words", "gopher_max_words")
    drops = [
        drop_row(
            id=f"s/{n}", source="s", snapshot="d", file="x", position=n, stage="clean",
            rule=rules[n % 2], value=float(n // 6), threshold=50.0,
        )
        for n in range(200)
    ]  # fmt: skip
    write_table(tree.own("dropped/x.parquet"), drops_table(drops))
    part = SimpleNamespace(name="x", snapshot="d", dropped=dict.fromkeys(rules, 100))
    recipe = RECIPE.model_dump(mode="json")
    snapshot = SimpleNamespace(deliveries=("d",), parts=(part,), recipe=recipe)
    return Store(str(tmp_path), tree, cast(Snapshot, snapshot))


def test_the_nearest_by_hand() -> None:
    away = np.array([3.0, np.nan, 1.0, 2.0, 2.0, 5.0])
    assert cleaning_report._least(away).tolist() == [False, False, True, True, True, False]
    assert not cleaning_report._least(np.full(3, np.nan)).any()
    assert cleaning_report._least(np.array([4.0])).tolist() == [True]
    rule = next(rule for rule in BY_NAME.values() if rule.side == "max")
    found = cleaning_report._away(np.array([1.0, 5.0, np.nan, 4.0]), rule, 4.0)
    assert found.tolist()[::3] == [3.0, 0.0] and np.isnan(found[1:3]).all()


def test_the_nearest_of_those_kept(store: Store) -> None:
    rows = table_rows(store.tree.find("clean/x.parquet"))
    values = statistics_table(pa.array([row["text"] for row in rows]), RECIPE.clean)
    found = cleaning_report._nearest_kept(store, LIMITS)
    assert set(found) == {rule for rule in LIMITS if LIMITS[rule] is not None}
    for rule, nearest in found.items():
        limit = LIMITS[rule]
        assert limit is not None
        passing = [
            row | {"value": value}
            for row, value in zip(rows, values[rule].to_pylist(), strict=True)
            if value is not None
            and (value >= limit if BY_NAME[rule].side == "min" else value <= limit)
        ]
        passing.sort(key=lambda row: (abs(row["value"] - limit), rank(row)))
        assert [(row["id"], row["value"], row["text"]) for row in nearest] == [
            (row["id"], row["value"], row["text"][:200]) for row in passing[:2]
        ]
        assert {row["side"] for row in nearest} <= {"kept"}


def test_the_nearest_of_those_dropped(store: Store) -> None:
    rows = table_rows(store.tree.find("dropped/x.parquet"))
    limits = {"gopher_min_words": 20.0, "gopher_max_words": 3.5}
    found = cleaning_report._nearest_dropped(store, limits)
    for rule, limit in limits.items():
        mine = [row for row in rows if row["rule"] == rule]
        mine.sort(key=lambda row: (abs(row["value"] - limit), rank(row)))
        assert [(row["id"], row["value"]) for row in found[rule]] == [
            (row["id"], row["value"]) for row in mine[:2]
        ]
        assert {(row["side"], row["text"]) for row in found[rule]} == {("dropped", "not kept")}
