"""Rows of tables become records; broken rows, cells and files become damage in their place."""

import datetime
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stage_helpers import unhurried

from corpus import tables
from corpus.archives import InputFile
from corpus.readers import detect_format, read_records
from corpus.records import Damage, Keys, Record

LIMIT = 1000

in_tmp = settings(unhurried, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(path: Path, limit: int = LIMIT, keys: Keys = Keys()) -> list[Record | Damage]:  # noqa: B008
    file = InputFile(str(path))
    try:
        return list(read_records(file, detect_format(str(path)), limit, keys))
    finally:
        file.close()


def read_bytes(path: Path, data: bytes, limit: int = LIMIT) -> list[Record | Damage]:
    path.write_bytes(data)
    return read(path, limit)


def texts(found: list[Record | Damage]) -> list[tuple[int, str]]:
    return [(e.position, e.text if isinstance(e, Record) else e.rule) for e in found]


def test_csv_by_hand(tmp_path: Path) -> None:
    data = (
        b'\xef\xbb\xbfid,text,score\r\n1,"a, ""b""\nc",2\r\n\r\n,d,\r\n2,too,many,fields\r\n3,\xff,'
    )
    assert read_bytes(tmp_path / "a.csv", data) == [
        Record(1, "1", 'a, "b"\nc', None, None, '{"score":"2"}'),
        Record(2, None, "d", None, None, '{"score":""}'),
        Damage(3, "invalid_record", "4 fields, the header has 3"),
        Damage(4, "invalid_utf8", "a byte that is no UTF-8"),
    ]


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    found = read_bytes(tmp_path / "a.tsv", b'text\tid\n"a\tx\nb"\ty\n')
    assert [(e.key, e.text) for e in found if isinstance(e, Record)] == [("x", '"a'), ("y", 'b"')]


def test_a_header_without_the_text_is_one_damage(tmp_path: Path) -> None:
    (found,) = read_bytes(tmp_path / "a.csv", b"id,body\n1,x\n2,y\n")
    assert found == Damage(1, "invalid_record", "no column text in the header: id, body")


def test_overlong_lines_and_quotes_that_never_end(tmp_path: Path) -> None:
    rows = b"text\n" + b"x" * 30 + b"\nshort\n" + b'"open\n' + b"more\n" * 9 + b"after\n"
    found = texts(read_bytes(tmp_path / "a.csv", rows, 20))
    assert found[:3] == [(1, "record_too_long"), (2, "short"), (3, "invalid_record")]
    assert found[-1][1] == "after"
    assert [position for position, _ in found] == list(range(1, len(found) + 1))


@in_tmp
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)))
def test_csv_round_trip(tmp_path: Path, given_texts: list[str]) -> None:
    quoted = ('"' + text.replace('"', '""') + '"' for text in given_texts)
    data = "\n".join(["text", *quoted]).encode()
    found = texts(read_bytes(tmp_path / "a.csv", data))
    assert found == list(enumerate(given_texts, 1))


def make_table(rows: int) -> pa.Table:
    return pa.table(
        {
            "text": [None if n == 3 else f"text {n}" for n in range(rows)],
            "id": list(range(rows)),
            "when": [datetime.datetime(2020, 1, 1)] * rows,
            "raw": [b"\xff"] * rows,
        }
    )


def write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=7)
        return
    make = pa.ipc.new_file if path.suffix == ".feather" else pa.ipc.new_stream
    with path.open("wb") as stream, make(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
def test_columnar_files(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROWS", 4)
    write(tmp_path / name, make_table(20))
    found = read(tmp_path / name)
    meta = '{"raw":"/w==","when":"2020-01-01T00:00:00"}'
    assert found[0] == Record(1, "0", "text 0", None, None, meta)
    assert found[3] == Damage(4, "invalid_record", "no string under the key text")
    assert [each.position for each in found] == list(range(1, 21))
    assert texts(read(tmp_path / name, 6))[10] == (11, "record_too_long")


@pytest.mark.parametrize("name", ["a.parquet", "a.feather", "a.arrow"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_a_truncated_columnar_file_is_one_damage(tmp_path: Path, name: str, share: float) -> None:
    write(tmp_path / name, make_table(50))
    data = (tmp_path / name).read_bytes()
    if not share:
        data = data[:4]
    found = read_bytes(tmp_path / name, data[: int(share * len(data))] if share else data)
    assert texts(found)[-1][1] == "corrupt_archive"
    assert [each.position for each in found] == list(range(1, len(found) + 1))


def test_a_disk_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", make_table(50))

    class Failing:
        def __init__(self, path: str) -> None:
            self.file = io.BytesIO(Path(path).read_bytes())

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def __enter__(self) -> "Failing":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def read(self, _: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("corpus.archives.open_reader", Failing)
    file = InputFile(str(tmp_path / "a.parquet"))
    with pytest.raises(OSError, match="Input/output error"):
        list(read_records(file, "parquet", LIMIT))
    file.close()
