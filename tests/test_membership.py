"""The documents of a shard are read back by their numbers, without a look at what else is there."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_pack import write_tokens

import corpus.membership
from corpus.documents import DOCUMENT_SCHEMA, DUPLICATE_SCHEMA
from corpus.files import open_reader, write_bytes
from corpus.membership import Held, documents_in, read_urls
from corpus.snapshots import Tree

PARTS = {
    "a-0-0": [(7, "s/bb", [1]), (9, "s/z", [1])],
    "a-1-0": [(3, "s/c", [3]), (7, "s/a", [2])],
    "a-2-0": [],
}
IN_ORDER = [
    Held("s/c", "a-1-0"), Held("s/a", "a-1-0"), Held("s/bb", "a-0-0"), Held("s/z", "a-0-0")
]  # fmt: skip


def test_documents_are_found_by_their_numbers(tmp_path: Path) -> None:
    write_tokens(tmp_path, PARTS)
    tree, parts = Tree(str(tmp_path)), list(PARTS)
    assert documents_in(tree, parts, 0, 2**64) == IN_ORDER
    assert documents_in(tree, parts, 0, 9) == IN_ORDER[:3]
    assert documents_in(tree, parts, 7, 9, [1, 0, 1]) == [IN_ORDER[n] for n in (2, 1, 2)]
    assert documents_in(tree, parts, 4, 7) == []
    for outside in (4, -1):
        with pytest.raises(IndexError, match=f"holds 4 documents, none has number {outside}"):
            documents_in(tree, parts, 0, 2**64, [0, outside])


def test_tokens_that_are_missing_or_damaged_are_told_apart(tmp_path: Path) -> None:
    write_tokens(tmp_path, PARTS)
    tree, path = Tree(str(tmp_path)), tmp_path / "tokens" / "a-1-0.arrow"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"{path.name} is damaged .*: delete its snapshot's"):
        documents_in(tree, list(PARTS), 0, 9)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path.name} is not there$"):
        documents_in(tree, list(PARTS), 0, 9)


class Counted:
    """A remote file that counts the bytes read of it."""

    taken = 0

    def __init__(self, path: str) -> None:
        self.stream = open_reader(path)

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        Counted.taken += len(data)
        return data

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self.stream, name)


def test_of_remote_tokens_only_ids_are_read(
    tmp_path: Path, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tokens(tmp_path, {"a-0-0": [(n, f"s/{n}", [5000]) for n in range(20)]})
    data = (tmp_path / "tokens" / "a-0-0.arrow").read_bytes()
    write_bytes(f"{remote}/tokens/a-0-0.arrow", data)
    monkeypatch.setattr(corpus.membership, "open_reader", Counted)
    assert documents_in(Tree(remote), ["a-0-0"], 5, 9, [2]) == [Held("s/7", "a-0-0")]
    assert 0 < Counted.taken < len(data) // 10
    with pytest.raises(FileNotFoundError, match=r"a-1-0.arrow is not there"):
        documents_in(Tree(remote), ["a-1-0"], 5, 9)


def write_rows(path: Path, schema: pa.Schema, rows: list[dict[str, Any]], **options: Any) -> None:  # noqa: ANN401
    defaults = {field.name: b"0" * 16 if field.name == "text_hash" else "" for field in schema}
    path.parent.mkdir(exist_ok=True)
    filled = [defaults | {"position": 0, "row": 0, "similarity": None} | row for row in rows]
    for row in filled:
        row["witness_position"] = 0
    names = schema.names
    held = [{name: row[name] for name in names} for row in filled]
    pq.write_table(pa.Table.from_pylist(held, schema=schema), path, **options)


def test_addresses_are_those_of_the_kept_documents(tmp_path: Path) -> None:
    pages: list[dict[str, Any]] = [
        {"id": "s/a", "url": "https://a", "position": 1},
        {"id": "s/a", "url": "https://a/dropped", "position": 2},
        {"id": "s/a", "url": "https://a/in-another-file", "file": "2", "position": 1},
        {"id": "s/b", "url": None},
        {"id": "s/c", "url": "https://c"},
    ]
    write_rows(tmp_path / "clean" / "p.parquet", DOCUMENT_SCHEMA, pages, row_group_size=2)
    dropped = [dict(pages[1]), dict(pages[2]), {"id": "s/c", "position": 9}]
    write_rows(tmp_path / "duplicates" / "p.parquet", DUPLICATE_SCHEMA, dropped)
    write_rows(tmp_path / "clean" / "q.parquet", DOCUMENT_SCHEMA, [{"id": "s/d", "url": "u"}])
    asked = [Held("s/a", "p"), Held("s/b", "p"), Held("s/d", "q"), Held("s/a", "p")]
    assert read_urls(Tree(str(tmp_path)), asked) == {"s/a": "https://a", "s/d": "u"}
    (tmp_path / "clean" / "q.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match=r"q.parquet is damaged"):
        read_urls(Tree(str(tmp_path)), asked)
    with pytest.raises(FileNotFoundError, match=r"r.parquet is not there"):
        read_urls(Tree(str(tmp_path)), [Held("s/a", "r")])
