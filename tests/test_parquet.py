"""Looking single rows up in tables on disk, without reading the rest of them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corpus.files import read_bytes, read_range, size_bytes, write_bytes
from pipeline import parquet
from pipeline.parquet import read_row, read_rows, rows_where, write_table

LONG = "x" * 5000  # more than Parquet's writer keeps statistics of


def write(path: Path, ids: list[str | None], group_size: int) -> None:
    table = pa.table({"n": pa.array(range(len(ids))), "id": pa.array(ids, pa.string())})
    pq.write_table(table, path, row_group_size=group_size)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.none() | st.text("aé\U0001f600z", max_size=3) | st.just(LONG), max_size=12),
    st.booleans(),
    st.integers(1, 5),
)
def test_the_rows_with_a_value_are_found(
    tmp_path: Path, ids: list[str | None], in_order: bool, group_size: int
) -> None:
    """Sorted or not, with nulls, and with values that are too long for statistics."""
    if in_order:
        ids.sort(key=lambda each: each or "")
    path = tmp_path / "table.parquet"
    write(path, ids, group_size)
    for value in {*ids, "", "b", LONG, LONG + "x"} - {None}:
        assert value is not None
        expected = [{"n": n, "id": each} for n, each in enumerate(ids) if each == value]
        assert rows_where(str(path), "id", value) == expected


@pytest.mark.parametrize(("wanted", "groups"), [("id-05000", 1), ("id-05000x", 1), ("other", 0)])
def test_only_the_row_group_that_can_hold_a_value_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, groups: int
) -> None:
    """This is what keeps the answer from growing with the corpus, in the tables we write."""
    table = pa.table({"id": [f"id-{n:05d}" for n in range(10_000)]})
    path = str(tmp_path / "table.parquet")
    write_table(path, table)
    assert pq.read_metadata(path).num_row_groups > 5
    opened: set[int] = set()
    read = pq.ParquetFile.read_row_group

    def reading(self: pq.ParquetFile, group: int, **options: Any) -> pa.Table:  # noqa: ANN401
        opened.add(group)
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", reading)
    assert len(rows_where(path, "id", wanted)) == (wanted == "id-05000")
    assert len(opened) == groups


def test_a_damaged_or_missing_table_is_named(tmp_path: Path) -> None:
    damaged = tmp_path / "table.parquet"
    damaged.write_bytes(b"PAR1 no")
    for path in (damaged, tmp_path / "none.parquet"):
        with pytest.raises(ValueError, match=f"{path.name} is damaged or missing"):
            rows_where(str(path), "id", "a")


def test_single_rows(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write(path, [f"id-{n}" for n in range(10)], 4)
    assert [read_row(str(path), row)["id"] for row in (0, 3, 4, 9)] == [
        "id-0", "id-3", "id-4", "id-9",
    ]  # fmt: skip
    with pytest.raises(IndexError, match=r"has 10 rows, row 10 was asked for"):
        read_row(str(path), 10)


@pytest.mark.parametrize(("text_bytes", "rows"), [(10, 1024), (5000, 209), (10**6, 64)])
def test_a_row_group_holds_about_a_mebibyte(tmp_path: Path, text_bytes: int, rows: int) -> None:
    """Verification and explain decode a whole row group for one document of it."""
    path = str(tmp_path / "table.parquet")
    write_table(path, pa.table({"text": ["x" * text_bytes] * 130 * (1 + rows // 100)}))
    assert pq.read_metadata(path).row_group(0).num_rows == rows


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of a file in a bucket gave, read whole or in part."""
    found: list[int] = []

    def ranged(path: str, start: int, stop: int) -> bytes:
        found.append(stop - start)
        return read_range(path, start, stop)

    def whole(path: str) -> bytes:
        found.append(len(read_bytes(path)))
        return read_bytes(path)

    monkeypatch.setattr(parquet, "read_range", ranged)
    monkeypatch.setattr(parquet, "read_bytes", whole)
    return found


def write_texts(path: str) -> list[str]:
    """Write a table of some forty row groups of texts that zstd leaves half of; return them."""
    rng = random.Random(8)
    texts = [rng.randbytes(6000).hex() for _ in range(3000)]
    write_table(path, pa.table({"id": [f"{n:05d}" for n in range(3000)], "text": texts}))
    return texts


def test_of_a_table_in_a_bucket_few_rows_are_read_alone(remote: str, asked: list[int]) -> None:
    path = f"{remote}/table.parquet"
    texts = write_texts(path)
    size = size_bytes(path)
    rows = np.array([5, 6, 1500, 2999])
    assert list(read_rows(path, rows, "text")) == [texts[n] for n in rows]
    assert sum(asked) < size / 8
    asked.clear()
    assert read_row(path, 1500) == {"id": "01500", "text": texts[1500]}
    assert rows_where(path, "id", "00007") == [{"id": "00007", "text": texts[7]}]
    assert sum(asked) < size / 8


def test_of_a_table_in_a_bucket_many_rows_are_read_at_once(remote: str, asked: list[int]) -> None:
    """A request costs as long as a megabyte or more."""
    path = f"{remote}/table.parquet"
    texts = write_texts(path)
    rows = np.arange(0, 3000, 20)
    assert list(read_rows(path, rows, "text")) == [texts[n] for n in rows]
    assert asked[-1] == size_bytes(path)
    assert len(asked) < 5


@pytest.mark.parametrize("place", ["here", "there"])
def test_rows_beyond_the_end_are_left_out(tmp_path: Path, remote: str, place: str) -> None:
    path = f"{tmp_path if place == 'here' else remote}/table.parquet"
    write_table(path, pa.table({"text": ["a", "b"]}))
    assert list(read_rows(path, np.array([1, 2, 7]), "text")) == ["b"]
    assert list(read_rows(path, np.array([], np.int64), "text")) == []


def test_a_damaged_table_in_a_bucket_is_named(remote: str) -> None:
    path = f"{remote}/table.parquet"
    write_texts(path)
    write_bytes(path, read_bytes(path)[:-5])
    with pytest.raises(ValueError, match=r"table\.parquet is damaged or missing"):
        list(read_rows(path, np.array([0]), "text"))
    with pytest.raises(ValueError, match=r"no\.parquet is damaged or missing"):
        read_row(f"{remote}/no.parquet", 0)
