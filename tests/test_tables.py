"""Parquet, Arrow, CSV and TSV: rows become records; what breaks is placed and counted."""

import csv
import datetime
import io
import random
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from corpus import archives, tables
from corpus.archives import InputFile
from corpus.cursor import Cursor
from corpus.delimited import _Row, _Rows
from corpus.readers import read_records
from corpus.records import Damage, ReadOptions, Record

LIMIT = 1000


def read(path: Path, data: bytes, form: str, **options: Any) -> list[Record | Damage]:  # noqa: ANN401
    path.write_bytes(data)
    file = InputFile(str(path))
    try:
        return list(read_records(file, form, LIMIT, ReadOptions(**options)))
    finally:
        file.close()


def parquet(table: pa.Table, **options: Any) -> bytes:  # noqa: ANN401
    target = io.BytesIO()
    pq.write_table(table, target, **options)
    return target.getvalue()


def arrow(table: pa.Table, stream: bool) -> bytes:
    target = io.BytesIO()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(target, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return target.getvalue()


TABLE = pa.table(
    {
        "body": ["one", None, "x" * 1001, "four"],
        "id": [1, 2, 3, 4],
        "when": [datetime.date(2024, 1, 2)] * 4,
    }
)
META = '{"when":"2024-01-02"}'


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["parquet", "arrow", "stream"])
def test_rows_become_records(tmp_path: Path, form: str, packed: bool) -> None:
    data = parquet(TABLE, row_group_size=3) if form == "parquet" else arrow(TABLE, form == "stream")
    if packed:
        data = zstandard.compress(data)
    form = "arrow" if form == "stream" else form
    assert read(tmp_path / "a", data, form, text_key="body") == [
        Record(1, "1", "one", None, None, META),
        Damage(2, "invalid_record", "no string under the key body"),
        Damage(3, "record_too_long", "bytes", 1001.0, 1000.0),
        Record(4, "4", "four", None, None, META),
    ]


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_a_broken_table_is_one_damage(tmp_path: Path, form: str) -> None:
    data = parquet(TABLE) if form == "parquet" else arrow(TABLE, stream=False)
    (damage,) = read(tmp_path / "a", data[: len(data) // 2], form)
    assert isinstance(damage, Damage)
    assert (damage.position, damage.rule) == (1, "corrupt_file")
    packed = zstandard.compress(data)[:-9]
    (damage,) = read(tmp_path / "b", packed, form)
    assert isinstance(damage, Damage)
    assert (damage.position, damage.rule) == (1, "corrupt_archive")


def test_a_broken_row_group_leaves_the_next_one(tmp_path: Path) -> None:
    table = pa.table({"text": [f"text number {n}" for n in range(300)]})
    data = bytearray(parquet(table, row_group_size=100, use_dictionary=False))
    # The header of the first group's page stands right behind the file's first four bytes.
    data[4:24] = b"\xff" * 20
    found = read(tmp_path / "a", bytes(data), "parquet")
    assert isinstance(found[0], Damage)
    assert found[0].rule == "corrupt_file"
    assert [each.position for each in found[-200:]] == list(range(101, 301))


def test_rows_that_a_group_claims_and_has_not_are_a_drop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = tables._batches

    def without_last(table: Any, number: int) -> Any:  # noqa: ANN401
        return (batch.slice(0, len(batch) - 1) for batch in batches(table, number))

    monkeypatch.setattr(tables, "_batches", without_last)
    found = read(
        tmp_path / "a", parquet(pa.table({"text": list("abcd")}), row_group_size=2), "parquet"
    )
    short = "the rows end, 1 before their group says"
    assert found == [
        Record(1, None, "a", None, None, None), Damage(2, "corrupt_file", short),
        Record(3, None, "c", None, None, None), Damage(4, "corrupt_file", short),
    ]  # fmt: skip


def test_a_failing_disk_is_no_property_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.BytesIO):
        def read(self, _: int | None = -1) -> NoReturn:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(tables, "open_reader", lambda _: Broken(b"x" * 100))
    for form in ("parquet", "arrow"):
        with pytest.raises(OSError, match="Input/output error"):
            read(tmp_path / "a", parquet(TABLE), form)


def test_csv_rows_may_be_quoted_and_broken_ones_are_drops(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfid,text\n1,"a, ""b""\nc"\n\n2,x,y\n3,caf\xe9\n4,"a"b\n5,d\n'
    assert read(tmp_path / "a", data, "csv") == [
        Record(2, "1", 'a, "b"\nc', None, None, None),
        Damage(5, "invalid_csv", "fields", 3.0, 2.0),
        Damage(6, "invalid_utf8", "unexpected end of data at byte 5"),
        Damage(7, "invalid_csv", "',' expected after '\"'"),
        Record(8, "5", "d", None, None, None),
    ]


@pytest.mark.parametrize(
    ("form", "other", "said"), [("csv", ";", "';'"), ("csv", "\t", r"'\t'"), ("tsv", ",", "','")]
)
def test_another_delimiter_is_named(tmp_path: Path, form: str, other: str, said: str) -> None:
    wanted = {"csv": ",", "tsv": "\t"}[form]
    data = f"text{other}id\nhello{other}1\nhello{wanted} you{other}1\n"
    hint = f": the header is one field with {said} in it: separate fields by {wanted!r}"
    missing, fields = read(tmp_path / "a", data.encode(), form)
    assert isinstance(missing, Damage)
    assert isinstance(fields, Damage)
    assert missing.rule == "invalid_record"
    assert missing.detail.endswith(hint)
    assert fields == Damage(3, "invalid_csv", f"fields{hint}", 2.0, 1.0)
    (alone,) = read(tmp_path / "b", b"text\na;b\n", form)
    assert isinstance(alone, Record)


def texts(found: list[Record | Damage]) -> list[tuple[int, str]]:
    return [(e.position, e.text if isinstance(e, Record) else e.rule) for e in found]


def test_a_quote_without_an_end_costs_its_own_line(tmp_path: Path) -> None:
    rows = "".join(f"{n},text {n}\n" for n in range(3, 1003))
    opens = "a quoted field that opens here"
    never = f"{opens} never ends"
    kept = [Record(n, str(n), f"text {n}", None, None, None) for n in range(3, 1003)]
    path = tmp_path / "a"
    path.write_bytes(f'id,text\n2,"oops\n{rows}'.encode())
    assert list(read_records(InputFile(str(path)), "csv", 10**6)) == [
        Damage(2, "invalid_csv", never), *kept
    ]  # fmt: skip
    # What is longer than the limit is given up there.
    assert read(tmp_path / "a", f'id,text\n2,"oops\n{rows}'.encode(), "csv") == [
        Damage(2, "record_too_long", "bytes, and a quoted field that opens here has not ended",
               1006.0, 1000.0),
        *kept,
    ]  # fmt: skip
    # A quote of another row is no end of it, and that row is read.
    assert read(tmp_path / "a", b'id,text\n2,"oops\n3,c\n4,"d\n\n5"\n6,f\n7,"x\ny\n', "csv") == [
        Damage(2, "invalid_csv", f"{opens}: ',' expected after '\"' in line 4"),
        Record(3, "3", "c", None, None, None),
        Record(4, "4", "d\n\n5", None, None, None),
        Record(7, "6", "f", None, None, None),
        Damage(8, "invalid_csv", never),
        Damage(9, "invalid_csv", "fields", 1.0, 2.0),
    ]  # fmt: skip


def test_a_line_beyond_the_limit_within_quotes_is_a_drop_of_its_own(tmp_path: Path) -> None:
    data = b'text\n"open\nb\n' + b"x" * 1001 + b"\nd\n"
    assert texts(read(tmp_path / "a", data, "csv")) == [
        (2, "record_too_long"), (3, "b"), (4, "record_too_long"), (5, "d"),
    ]  # fmt: skip


def test_a_row_of_many_lines_that_is_no_utf8_is_one_drop(tmp_path: Path) -> None:
    data = b'text\n"a\nb\xff\nc"\nd\n'
    assert texts(read(tmp_path / "a", data, "csv")) == [(2, "invalid_utf8"), (5, "d")]


def test_a_mark_and_nothing_else_in_the_first_line_is_no_header(tmp_path: Path) -> None:
    assert texts(read(tmp_path / "a", b"\xef\xbb\xbf\n\ntext\na\n", "csv")) == [(4, "a")]


def rows_by_trying(lines: list[str]) -> list[tuple[int, list[str] | None]]:
    """Read rows from every line on, and go on with the next one where that fails."""
    found: list[tuple[int, list[str] | None]] = []
    at = 0
    while at < len(lines):
        reader = csv.reader(lines[at:], strict=True)
        try:
            row = next(reader)
        except csv.Error:
            found.append((at + 1, None))
            at += 1
            continue
        if lines[at].strip():
            found.append((at + 1, row))
        at += reader.line_num
    return found


@given(st.lists(st.text('a,"', max_size=6), max_size=12))
def test_rows_are_those_that_begin_at_every_line(lines: list[str]) -> None:
    data = [line + "\n" for line in lines]
    rows = _Rows(Cursor(iter(["".join(data).encode()])), ",", 10**6, "utf-8")
    found = [
        (row.line, row.fields) if isinstance(row, _Row) else (row.position, None) for row in rows
    ]
    assert found == rows_by_trying(data)


@pytest.mark.parametrize("line", [b'a","b\n', b'5,"oops\n', b'""",\n', b'"\n'])
@pytest.mark.parametrize("limit", [100, 5000, 10**6])
def test_stray_quotes_in_every_line_are_read_in_linear_time(line: bytes, limit: int) -> None:
    read_lines = 0

    class Counting(_Rows):
        def _text(self, line: Any) -> str:  # noqa: ANN401
            nonlocal read_lines
            read_lines += 1
            return super()._text(line)

    list(Counting(Cursor(iter([line * 5000])), ",", limit, "utf-8"))
    assert read_lines <= 3 * 5000


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    data = b'a\tb\n"x\ty"\r\nz\n'
    assert read(tmp_path / "a", data, "tsv", text_key="b") == [
        Record(2, None, 'y"', None, None, '{"a":"\\"x"}'),
        Damage(3, "invalid_csv", "fields", 1.0, 2.0),
    ]


def table_of(form: str, names: list[str], rows: list[list[str]]) -> bytes:
    if form in ("csv", "tsv"):
        mark = "," if form == "csv" else "\t"
        return "".join(mark.join(row) + "\n" for row in [names, *rows]).encode()
    columns = [pa.array(values) for values in zip(*rows, strict=True)]
    table = pa.table(columns, names=names)
    return parquet(table) if form == "parquet" else arrow(table, stream=False)


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "arrow"])
@pytest.mark.parametrize("key", ["text", "id", "url", "language"])
def test_a_key_that_two_columns_have_is_not_guessed(tmp_path: Path, form: str, key: str) -> None:
    rows = [["a", "1", "x", "y"], ["b", "2", "z", "w"]]
    data = table_of(form, ["text", "n", key, key], rows)
    first = 2 if form in ("csv", "tsv") else 1
    expected = [
        Damage(first + n, "invalid_record", f"two columns are called {key}") for n in range(2)
    ]
    assert read(tmp_path / "a", data, form) == expected
    # A name that is no key in use is as good as any.
    found = read(tmp_path / "a", data, form, **{f"{key}_key": "n"})
    assert all(isinstance(each, Record) for each in found)


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet", "arrow"])
def test_other_columns_of_one_name_are_numbered(tmp_path: Path, form: str) -> None:
    names = ["x", "text", "x", "x.1", "x", "x.1"]
    (found,) = read(tmp_path / "a", table_of(form, names, [["a", "t", "b", "c", "d", "e"]]), form)
    assert isinstance(found, Record)
    assert found.meta == '{"x":"a","x.1":"c","x.1.1":"e","x.2":"b","x.3":"d"}'


# 10000-01-01 in microseconds and in days.
FAR, FAR_DAYS = 253402300800000000, 2932897
ZONES = ("Z", "GMT+2", "Pacific Standard Time", "+99:99")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([0, FAR, None], pa.timestamp("us")),
         ["1970-01-01T00:00:00", "10000-01-01 00:00:00.000000", None]),
        (pa.array([0, FAR, None], pa.timestamp("us", "Asia/Tokyo")),
         ["1970-01-01T09:00:00+09:00", "10000-01-01 00:00:00.000000Z", None]),
        (pa.array([0, FAR_DAYS, None], pa.date32()), ["1970-01-01", "10000-01-01", None]),
        *((pa.array([0, 1, None], pa.timestamp("us", zone)),
           ["1970-01-01 00:00:00.000000Z", "1970-01-01 00:00:00.000001Z", None])
          for zone in ZONES),
        (pa.array([[0], [FAR, 0], None], pa.list_(pa.timestamp("us"))),
         [["1970-01-01T00:00:00"], ["10000-01-01 00:00:00.000000", "1970-01-01T00:00:00"], None]),
        (pa.array([{"a": 1, "b": FAR_DAYS}] * 3,
                  pa.struct([("a", pa.int64()), ("b", pa.date32())])),
         [{"a": 1, "b": "10000-01-01"}] * 3),
        (pa.array([[("k", FAR_DAYS)], [], None], pa.map_(pa.string(), pa.date32())),
         [[["k", "10000-01-01"]], [], None]),
        (pa.array([0, FAR, None], pa.timestamp("us")).dictionary_encode(),
         ["1970-01-01T00:00:00", "10000-01-01 00:00:00.000000", None]),
    ],
)  # fmt: skip
def test_what_python_cannot_hold_is_a_string(
    tmp_path: Path, form: str, column: pa.Array, expected: list[Any]
) -> None:
    day = datetime.date(2024, 1, 2)
    table = pa.table({"text": ["a", "b", "c"], "when": column, "good": [day] * 3})
    data = parquet(table) if form == "parquet" else arrow(table, stream=False)
    found = read(tmp_path / "a", data, form)
    assert texts(found) == [(1, "a"), (2, "b"), (3, "c")]
    metas = [orjson.loads(each.meta or "") for each in found if isinstance(each, Record)]
    assert [each["when"] for each in metas] == expected
    assert [each["good"] for each in metas] == ["2024-01-02"] * 3


def test_fields_of_one_name_within_a_value_are_numbered(tmp_path: Path) -> None:
    value = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    table = pa.table({"text": ["t"], "n": value})
    (found,) = read(tmp_path / "a", arrow(table, stream=True), "arrow")
    assert isinstance(found, Record)
    assert found.meta == '{"n":{"a":1,"a.1":2}}'


def test_a_field_may_hold_html(tmp_path: Path) -> None:
    (found,) = read(tmp_path / "a", b'{"h": "<p>\xc3\xa9"}', "jsonl", text_key="h", markup="html")
    assert found == Record(1, None, "", None, None, None, "html", "<p>\u00e9".encode(), "utf-8")


@pytest.mark.parametrize("length", [40_000, 4_000_000])
def test_a_row_group_is_not_held_whole(
    tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    text = random.Random(0).randbytes(20_000_000).hex()  # neither compresses well nor repeats
    texts = [text[start : start + length] for start in range(0, len(text), length)]
    # The writer's pages have whole batches of its own, and a page is the least that can be read.
    group = {"row_group_size": len(texts), "use_dictionary": False, "write_batch_size": 4}
    pq.write_table(pa.table({"text": texts}), path, **group)
    reads: list[int] = []
    batches: list[int] = []
    read, rows = tables.Data.read, tables._rows

    def noting_read(data: tables.Data, size: int = -1) -> bytes:
        reads.append(size)
        return read(data, size)

    def noting_rows(batch: pa.RecordBatch, *rest: Any) -> Any:  # noqa: ANN401
        batches.append(batch.nbytes)
        return rows(batch, *rest)

    monkeypatch.setattr(tables.Data, "read", noting_read)
    monkeypatch.setattr(tables, "_rows", noting_rows)
    found = list(read_records(InputFile(str(path)), "parquet", 2**26))
    assert [record.text for record in found if isinstance(record, Record)] == texts
    assert 0 < max(reads) < 20_000_000
    assert 0 < max(batches) <= 2**25


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("columns", [["text"], []])
def test_rows_that_take_no_bytes_are_a_bomb(
    tmp_path: Path, stream: bool, columns: list[str]
) -> None:
    """A few hundred bytes claim more rows than could ever be read."""
    nothing = pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])
    claimed = pa.RecordBatch.from_arrays([nothing], names=["text"]).select(columns)
    target = io.BytesIO()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with make(target, claimed.schema) as writer:
        writer.write_batch(claimed)
    data = target.getvalue()
    assert read(tmp_path / "a", data, "arrow") == [
        Damage(
            1, "decompression_bomb", "rows for each byte of the table", (2**31 - 1) / len(data), 500
        )
    ]


def test_rows_without_columns_are_counted(tmp_path: Path) -> None:
    data = arrow(pa.table({"a": [1, 2, 3]}).select([]), stream=True)
    found = read(tmp_path / "a", data, "arrow")
    assert [(each.position, each.rule) for each in found if isinstance(each, Damage)] == [
        (1, "invalid_record"), (2, "invalid_record"), (3, "invalid_record"),
    ]  # fmt: skip


def test_parquet_of_more_rows_than_its_bytes_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_RATIO", 5.0)
    data = parquet(pa.table({"a": pa.nulls(20_000)}))
    found = read(tmp_path / "a", data, "parquet")
    assert len(found) <= 5 * len(data) + 1 < 20_000
    last = found[-1]
    assert isinstance(last, Damage)
    assert (last.rule, last.position) == ("decompression_bomb", len(found))


LONG = "word " * 20_000
_SAME = pa.array([0] * 640, pa.int32())
BOMBS = {
    "dictionary": pa.DictionaryArray.from_arrays(_SAME, pa.array([LONG])),
    "runs": pa.RunEndEncodedArray.from_arrays([640], pa.array([LONG])),
    "plain": pa.array([LONG] * 640),
}


@pytest.mark.parametrize(
    ("form", "kind", "options"),
    [
        ("parquet", "dictionary", {"store_schema": False}),
        ("parquet", "dictionary", {}),
        ("parquet", "dictionary", {"row_group_size": 5}),
        ("parquet", "plain", {"use_dictionary": False, "column_encoding": "DELTA_BYTE_ARRAY"}),
        ("arrow", "dictionary", {}),
        ("arrow", "runs", {}),
    ],
)
def test_a_value_that_stands_once_for_many_rows_is_a_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, kind: str, options: dict[str, Any]
) -> None:
    """What is given is counted against the file, and few rows are held while it is."""
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**20)
    monkeypatch.setattr(tables, "_HELD_BYTES", 3 * len(LONG))
    held: list[int] = []
    rows = tables._rows

    def noting_rows(batch: pa.RecordBatch, *rest: Any) -> Any:  # noqa: ANN401
        held.append(len(batch))
        return rows(batch, *rest)

    monkeypatch.setattr(tables, "_rows", noting_rows)
    target = io.BytesIO()
    table = pa.table({"text": BOMBS[kind]})
    if form == "parquet":
        pq.write_table(table, target, compression="zstd", **options)
    else:
        codec = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(target, table.schema, options=codec) as writer:
            writer.write_table(table)
    data = target.getvalue()
    path = tmp_path / "a"
    path.write_bytes(data)
    *records, last = read_records(InputFile(str(path)), form, 2**20)
    given = max(2**20, 500 * len(data))
    assert len(records) == given // len(LONG) < 640
    assert all(isinstance(each, Record) and each.text == LONG for each in records)
    assert last == Damage(
        *(len(records) + 1, "decompression_bomb", "times its compressed size"),
        *((len(records) + 1) * len(LONG) / len(data), 500.0),
    )
    assert 0 < max(held) <= 3


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["plain", "dictionary"])
def test_an_arrow_batch_that_claims_too_much_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, stream: bool, kind: str
) -> None:
    """Before pyarrow makes room for it; the batches of a stream before it are given."""
    value = pa.array([LONG * 20])
    small = pa.array(["a"] * 3)
    column = pa.concat_arrays([small, *[value] * (20 if kind == "plain" else 1)])
    table = pa.table({"text": column if kind == "plain" else column.dictionary_encode()})
    first = pa.table({"text": small.cast(table.schema.field("text").type)})
    target = io.BytesIO()
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression=codec, emit_dictionary_deltas=False)
    with make(target, table.schema, options=options) as writer:
        if stream:
            writer.write_table(first)
        writer.write_table(table)
    data = target.getvalue()
    before = [Record(n + 1, None, "a", None, None, None) for n in range(3 if stream else 0)]
    monkeypatch.setattr(archives, "BOMB_BYTES", 10**6)
    monkeypatch.setattr(archives, "MAX_RATIO", 100.0)
    *records, last = read(tmp_path / "a", data, "arrow")
    assert isinstance(last, Damage)
    assert (last.position, last.rule) == (len(before) + 1, "decompression_bomb")
    assert records == before
    # Offsets and indices are not counted here, nor what stands before a buffer.
    claimed = len(LONG) * 20 * (20 if kind == "plain" else 1)
    assert last.value is not None
    assert claimed <= last.value * len(data) < claimed + 1000


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("shape", ["list", "struct"])
def test_values_within_a_row_are_counted(tmp_path: Path, form: str, shape: str) -> None:
    nulls = pa.ListArray.from_arrays([0, 3_000_000], pa.nulls(3_000_000, pa.int32()))
    column = nulls if shape == "list" else pa.StructArray.from_arrays([nulls], names=["a"])
    table = pa.table({"text": ["a"], "more": column})
    data = parquet(table, compression="zstd") if form == "parquet" else b""
    if form == "arrow":
        target = io.BytesIO()
        codec = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(target, table.schema, options=codec) as writer:
            writer.write_table(table)
        data = target.getvalue()
    (found,) = read(tmp_path / "a", data, form)
    assert isinstance(found, Damage)
    assert (found.position, found.rule, found.threshold) == (1, "decompression_bomb", 500.0)


def test_the_head_of_a_page_says_its_kind_and_size() -> None:
    assert tables._page_header(bytes.fromhex("1504158890a10f15aa17")) == (2, 16_000_004)
    assert tables._page_header(bytes.fromhex("15001590031500")) == (0, 200)
    assert tables._page_header(b"") == tables._page_header(b"\x15") == (0, 0)
