"""An audit finds any one value changed in what is stored, though all checksums agree with it.

Excerpts beside thresholds (`nearest/`) are the exception: the report shows them, nothing rests on
them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain_helpers import prepare
from corpus_helpers import write_corpus
from test_proofs import sign_again

from corpus.recipe import load_recipe
from pipeline.audit_dedup import check_duplicates
from pipeline.audit_shards import check_shards
from pipeline.explain import Store, open_store
from pipeline.jobs import HERE
from pipeline.proofs import audit
from pipeline.refresh import refresh

pytestmark = pytest.mark.slow


def build(directory: Path, packing: str) -> Store:
    write_corpus(directory, files=3, documents=40)
    overrides = [f"store={directory}/store", f"pack.format={packing}"]
    refresh(load_recipe(str(directory / "recipe.yaml"), overrides))
    return open_store(f"{directory}/store")


def other(value: Any, kind: pa.DataType) -> Any:  # noqa: ANN401 - a value of any column
    """Return another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1 if value < 200 else value - 1
    if value is None:
        return "x" if pa.types.is_string(kind) else 0.5
    return value + (0.25 if isinstance(value, float) else "x")


def changed(value: Any, kind: pa.DataType) -> Iterator[Any]:  # noqa: ANN401
    """Give some values that differ from one of a column; of a list its ends and its length too."""
    if not isinstance(value, list):
        yield other(value, kind)
        return
    for place in {0, len(value) // 2, len(value) - 1} if value else ():
        yield [*value[:place], other(value[place], kind.value_type), *value[place + 1 :]]
    if not pa.types.is_fixed_size_list(kind):
        yield [*value, 5]
        if value:
            yield value[:-1]


@pytest.mark.parametrize("packing", ["full-sentences", "segment-pair", "best-fit"])
def test_any_value_of_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    prepare(monkeypatch)
    store = build(tmp_path, packing)
    assert list(check_shards(store, HERE, [])) == []
    entry = max(store.snapshot.shards, key=lambda each: each.rows)
    path = Path(store.tree.find(entry.path))
    whole = path.read_bytes()
    with pa.ipc.open_stream(pa.BufferReader(whole)) as reader:
        schema, (first, *rest) = reader.schema, list(reader)

    def found_in(rows: list[dict[str, Any]]) -> list[str]:
        with pa.ipc.new_stream(path, schema) as writer:
            for batch in (pa.RecordBatch.from_pylist(rows, schema=schema), *rest):
                writer.write_batch(batch)
        return list(check_shards(sign_again(store), HERE, []))

    rows = first.to_pylist()
    assert found_in(rows) == []
    for field in schema:
        for value in changed(rows[1][field.name], field.type):
            found = found_in([rows[0], rows[1] | {field.name: value}, *rows[2:]])
            assert any(entry.path in each for each in found), (field.name, value)
    assert any("packed again" in each for each in found_in([rows[1], rows[0], *rows[2:]])) or (
        packing == "full-sentences"  # where documents are told by the order of rows
    )
    path.write_bytes(b"\0" * 100 + whole[100:])
    assert any("cannot be read" in each for each in check_shards(sign_again(store), HERE, []))


@pytest.mark.parametrize("kind", [".dedup", ""])
def test_any_value_of_a_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    prepare(monkeypatch)
    store = build(tmp_path, "full-sentences")
    names = [f"dropped/{part.name}{kind}.parquet" for part in store.snapshot.parts]
    tables = {name: pq.read_table(store.tree.find(name)) for name in names}
    name = max(names, key=lambda each: len(tables[each]))
    schema, rows = tables[name].schema, tables[name].to_pylist()
    assert rows
    sound = tmp_path / "sound"
    shutil.copytree(store.root, sound)
    for field in schema:
        for value in changed(rows[0][field.name], field.type):
            table = pa.Table.from_pylist([rows[0] | {field.name: value}, *rows[1:]], schema=schema)
            pq.write_table(table, store.tree.find(name))
            signed = sign_again(store)
            found = list(check_duplicates(signed)) if kind else audit(signed).problems
            told = ("drop rows of dedup", "other dropped rows")
            assert any(what in each for each in found for what in told), (field.name, value)
            shutil.rmtree(store.root)
            shutil.copytree(sound, store.root)
