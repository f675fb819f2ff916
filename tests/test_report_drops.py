"""Examples of drops: those that reading for every rule alone would give, tables read once."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.documents import drop_row, drops_table
from corpus.snapshots import PartEntry, Tree
from pipeline import parquet, report_drops
from pipeline.parquet import write_table
from pipeline.report_drops import choose_drops, least_of
from pipeline.samples import rank, some_parts

RULES = ("minhash", "c4_curly_bracket", "gopher_min_words")
PARTS = ("a-00000", "b-00000", "c-00000")


def write_drops(tree: Tree, dealt: list[tuple[str, str]]) -> list[PartEntry]:
    """Write drops given as (part, rule), those of deduplication in tables of their own."""
    parts = []
    for name in PARTS:
        rules = [rule for part, rule in dealt if part == name]
        rows = [
            drop_row(
                id=f"s/{n}", source="s", snapshot="d", file=name, position=n, stage="x", rule=rule
            )
            for n, rule in enumerate(rules)
        ]
        for kind, of_dedup in ((".dedup", True), ("", False)):
            table = drops_table(row for row in rows if (row["rule"] == "minhash") == of_dedup)
            write_table(tree.own(f"dropped/{name}{kind}.parquet"), table)
        counts = {rule: rules.count(rule) for rule in rules}
        parts.append(cast(PartEntry, SimpleNamespace(name=name, dropped=counts)))
    return parts


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from(RULES)), max_size=30))
def test_the_rows_are_those_of_every_rule_alone(
    tmp_path: Path, dealt: list[tuple[str, str]]
) -> None:
    tree = Tree(str(tmp_path))
    parts = write_drops(tree, dealt)
    reads = []

    def counted(path: str, columns: list[str]) -> pa.Table:
        reads.append(path)
        return parquet.read_columns(path, columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_drops, "read_columns", counted)
        chosen = choose_drops(tree, parts, RULES, lambda _, drops: drops.to_pylist())
        least = choose_drops(tree, parts, RULES, lambda _, drops: least_of(drops, 2))
    assert len(reads) == 2 * len(set(reads))
    for rule in RULES:
        files = {part.name for part in some_parts(parts, 2, rule)}
        expected = [(file, rule) for file, each in dealt if each == rule and file in files]
        assert sorted((row["file"], row["rule"]) for row in chosen[rule]) == sorted(expected)
        for file in files:
            rows = [row for row in chosen[rule] if row["file"] == file]
            assert [row for row in least[rule] if row["file"] == file] == sorted(rows, key=rank)[:2]
