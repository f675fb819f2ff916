"""A raw file becomes documents and drops: nothing lost, nothing that depends on the splits."""

import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stage_helpers import table_rows

from corpus.documents import DOCUMENT_SCHEMA, text_hash
from corpus.files import checksum, list_names
from corpus.forgotten import Forgotten, hash_id
from corpus.recipe import Clean, Dedup, Languages
from corpus.records import Damage, Record
from corpus.snapshots import Input, Tree
from pipeline import clean
from pipeline.chain import Chain
from pipeline.clean import Cleaner, Lineage, Origin, Rows, clean_cut
from pipeline.cuts import Cut, name_inputs, of_file
from pipeline.jobs import Output
from pipeline.parquet import read_table
from pipeline.settled import Lists

DEDUP = Dedup(bands=2, rows=2)
NONE = Clean(rules=(), languages=Languages(identify=False))
HERE = Origin("first", "s")


def parts_of(
    records: Iterable[Record | Damage],
    config: Clean = NONE,
    origin: Origin = HERE,
    forgotten: Forgotten = Forgotten(),  # noqa: B008 - frozen
    file: str = "f",
) -> list[Rows]:
    return list(Cleaner(origin, Chain(config, Lists()), forgotten).parts(of_file(file, records)))


def records_of(*texts: str) -> list[Record | Damage]:
    return [Record(n, None, text, None, None, None) for n, text in enumerate(texts, 1)]


def test_rows_by_hand() -> None:
    records: list[Record | Damage] = [
        Record(1, "k", " B ", "http://u", "en", '{"x":1}'),
        Damage(2, "invalid_json", "why"),
        Damage(3, "record_too_long", "bytes", 9.0, 5.0),
        Record(4, "e", "\x00", None, None, None),
        Record(5, None, "A\r\n", None, None, None),
    ]
    (part,) = parts_of(records, NONE, Origin("first", "src"), file="file")
    documents, drops = part.documents(), part.dropped()
    hashed = hashlib.sha256(b"A\r\n").hexdigest()[:32]
    assert documents.schema == DOCUMENT_SCHEMA
    assert documents.to_pylist() == [
        {
            "id": "src/k", "text": "B", "source": "src", "url": "http://u", "language": "en",
            "meta": '{"x":1}', "snapshot": "first", "file": "file", "position": 1,
            "text_hash": text_hash("b"),
        },
        {
            "id": f"src/sha256-{hashed}", "text": "A", "source": "src", "url": None,
            "language": None, "meta": None, "snapshot": "first", "file": "file", "position": 5,
            "text_hash": text_hash("a"),
        },
    ]  # fmt: skip
    expected = [
        (None, 2, "read", "invalid_json", None, None, "why"),
        (None, 3, "read", "record_too_long", 9.0, 5.0, "bytes"),
        ("src/e", 4, "clean", "empty", 0.0, 1.0, None),
    ]
    names = ("id", "position", "stage", "rule", "value", "threshold", "detail")
    assert [tuple(row[name] for name in names) for row in drops.to_pylist()] == expected
    places = {(row["snapshot"], row["source"], row["file"]) for row in drops.to_pylist()}
    assert places == {("first", "src", "file")}


def test_what_was_taken_down_leaves_its_place_only() -> None:
    """By id, text (in whatever form), URL prefix; what fails a rule anyway is counted there."""
    records: list[Record | Damage] = [
        Record(1, "a", "one", None, None, None),
        Record(2, "b", "TWO", None, None, None),
        Record(3, "c", "three", "https://gone.example/x", None, None),
        Record(4, "d", "four", "https://stays.example/x", None, None),
        Record(5, "a", "", None, None, None),
    ]
    forgotten = Forgotten(
        ids=frozenset([hash_id("s/a")]),
        texts=frozenset([text_hash("two").hex()]),
        url_prefixes=frozenset(["https://gone.example/"]),
    )
    (part,) = parts_of(records, forgotten=forgotten)
    documents, drops = part.documents(), part.dropped()
    assert documents["id"].to_pylist() == ["s/d"]
    gone = {row["position"]: row for row in drops.to_pylist()}
    assert {n: row["rule"] for n, row in gone.items()} == {
        1: "forgotten", 2: "forgotten", 3: "forgotten", 5: "empty",
    }  # fmt: skip
    place = {"source": "s", "snapshot": "first", "file": "f", "position": 1}
    values = {name: value for name, value in gone[1].items() if value is not None}
    assert values == place | {"stage": "clean", "rule": "forgotten"}
    (part,) = parts_of(records, forgotten=Forgotten(sources=frozenset("s")))
    assert len(part.documents()) == 0


def test_an_id_by_hash_comes_from_the_raw_text() -> None:
    """Two raw texts that clean to the same one are two documents, the same raw text is one id."""
    (part,) = parts_of(records_of("a", "a ", "a"))
    rows = sorted(part.documents().to_pylist(), key=lambda row: row["position"])
    ids = [row["id"] for row in rows]
    assert ids[0] == ids[2] != ids[1]
    assert len({row["text_hash"] for row in rows}) == 1


RECORDS = st.lists(
    st.one_of(
        st.tuples(st.none() | st.sampled_from("abc"), st.text("ab \x00", max_size=30)).map(
            lambda given: Record(0, *given, None, None, None)
        ),
        st.just(Damage(0, "invalid_json", "x")),
    )
).map(lambda found: [each._replace(position=n) for n, each in enumerate(found, 1)])  # fmt: skip


def all_rows(parts: Iterable[Rows]) -> list[dict[str, Any]]:
    """Return documents and drops of all parts by their place."""
    tables = [table for part in parts for table in (part.documents(), part.dropped())]
    rows = [row for table in tables for row in table.to_pylist()]
    return sorted(rows, key=lambda row: row["position"])


@given(RECORDS, st.integers(1, 60), st.integers(1, 5))
def test_every_record_is_one_document_or_one_drop_in_whatever_parts(
    records: list[Record | Damage], part_bytes: int, batch: int
) -> None:
    (whole,) = parts_of(records)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clean, "PART_BYTES", part_bytes)
        patch.setattr(clean, "_ROW_BYTES", 5)
        patch.setattr(clean, "_BATCH_RECORDS", batch)
        parts = parts_of(records)
    assert all_rows(parts) == all_rows([whole])
    assert [row["position"] for row in all_rows(parts)] == [each.position for each in records]
    for part in parts:
        texts = sum(len(text.encode()) for text in part.documents()["text"].to_pylist())
        assert part.text_bytes == texts
        assert part.held_bytes == texts + 5 * (len(part.documents()) + len(part.drops))
    assert all(part.held_bytes >= part_bytes for part in parts[:-1])


def test_a_part_is_closed_by_whatever_fills_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded where nothing is kept, and where meta is larger than text."""
    monkeypatch.setattr(clean, "PART_BYTES", 20 * clean._ROW_BYTES)
    monkeypatch.setattr(clean, "_BATCH_RECORDS", 10)
    damaged = [Damage(n, "invalid_json", "x") for n in range(1, 101)]
    assert [len(part.drops) for part in parts_of(damaged)] == [20] * 5 + [0]
    failing = records_of(*["too short"] * 30)
    assert [len(part.drops) for part in parts_of(failing, Clean())] == [20, 10]
    monkeypatch.setattr(clean, "_BATCH_RECORDS", 1)
    heavy = [Record(n, None, "x", None, None, "m" * 9 * 1024) for n in range(1, 6)]
    assert [len(part.documents()) for part in parts_of(heavy)] == [2, 2, 1]


def test_a_batch_is_closed_by_large_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "_BATCH_BYTES", 10)
    page = Record(4, None, "", None, None, None, page=b"0123456789")
    batches = clean.batches(of_file("f", [*records_of("a" * 6, "b" * 6, "c"), page]))
    assert [[each.position for _, each in batch] for batch in batches] == [[1, 2], [3, 4]]


@given(RECORDS)
def test_tables_are_in_canonical_order(records: list[Record | Damage]) -> None:
    (part,) = parts_of(records)
    for table in (part.documents(), part.dropped()):
        keys = [(row["id"] or "", row["file"], row["position"]) for row in table.to_pylist()]
        assert keys == sorted(keys)


@given(RECORDS)
def test_a_verdict_depends_on_the_document_alone(records: list[Record | Damage]) -> None:
    alone = [part for each in records for part in parts_of([each])]
    assert all_rows(parts_of(records)) == all_rows(alone)


def write_input(path: Path, data: bytes) -> Input:
    path.write_bytes(data)
    return Input(
        snapshot="first", source="s", name=path.name, format="jsonl", size_bytes=len(data),
        checksum=checksum(str(path)), path=str(path),
    )  # fmt: skip


def cleaned(root: Path, source: Input, config: Clean) -> Output:
    lineage = Lineage(str(root), config, DEDUP)
    return clean_cut(Tree(str(root)), "task", Cut((source,), "task"), lineage)


def some_lines(count: int) -> bytes:
    lines = [json.dumps({"id": n, "text": f"text number {n} " * 5}) for n in range(count)]
    lines[2] = "{"
    return "\n".join(lines).encode()


def test_clean_file_writes_what_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "PART_BYTES", 15 * clean._ROW_BYTES)
    monkeypatch.setattr(clean, "_BATCH_RECORDS", 5)
    source = write_input(tmp_path / "a.jsonl.gz", gzip.compress(some_lines(50)))
    output = cleaned(tmp_path / "out", source, NONE)
    parts: list[dict[str, Any]] = output.counts["parts"]
    assert set(output.counts) == {"parts"}
    names = [f"{name_inputs([source])}-{n:05d}" for n in range(len(parts))]
    assert [part["name"] for part in parts] == names
    assert len(parts) > 2
    assert sorted(output.paths) == list_names(str(tmp_path / "out"))
    kinds = [path.split("/")[0] for path in output.paths]
    assert kinds == ["clean", "dropped", "index", "index"] * len(parts)
    assert sum(part["documents"] for part in parts) == 49
    assert [part["dropped"] for part in parts if part["dropped"]] == [{"invalid_json": 1}]
    for part in parts:
        assert (
            len(read_table(str(tmp_path / f"out/clean/{part['name']}.parquet")))
            == (part["documents"])
        )
    rows = table_rows(tmp_path / f"out/dropped/{parts[0]['name']}.parquet")
    assert [(row["rule"], row["position"]) for row in rows] == [("invalid_json", 3)]


def test_clean_file_again_writes_the_same_bytes(tmp_path: Path) -> None:
    source = write_input(tmp_path / "a.jsonl", some_lines(20))
    outputs = [cleaned(tmp_path / name, source, Clean()) for name in ("one", "two")]
    assert outputs[0] == outputs[1]
    for path in outputs[0].paths:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()


def test_a_file_without_a_document_has_one_part(tmp_path: Path) -> None:
    for data in (b"", b"{\n"):
        source = write_input(tmp_path / "a.jsonl", data)
        output = cleaned(tmp_path / f"out{len(data)}", source, Clean())
        assert [part["documents"] for part in output.counts["parts"]] == [0]


def test_an_input_that_changed_stops_the_job(tmp_path: Path) -> None:
    source = write_input(tmp_path / "a.jsonl", some_lines(20))
    (tmp_path / "a.jsonl").write_bytes(some_lines(21))
    with pytest.raises(ValueError, match=r"a\.jsonl changed since it was listed: its checksum was"):
        cleaned(tmp_path / "out", source, Clean())


def test_a_change_behind_the_break_of_an_archive_is_found(tmp_path: Path) -> None:
    data = gzip.compress(some_lines(20))[:-10]
    source = write_input(tmp_path / "a.jsonl.gz", data)
    (tmp_path / "a.jsonl.gz").write_bytes(data + bytes(200_000) + b"x")
    with pytest.raises(ValueError, match="changed since it was listed"):
        cleaned(tmp_path / "out", source, NONE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("ab\x00\r\n \u0301\ufeff", max_size=10), max_size=6))
def test_in_is_documents_and_drops(tmp_path: Path, texts: list[str]) -> None:
    lines = [json.dumps({"text": text}) for text in texts]
    source = write_input(tmp_path / "a.jsonl", "\n".join(lines).encode())
    output = cleaned(tmp_path / "out", source, NONE)
    (part,) = output.counts["parts"]
    assert part["documents"] + sum(part["dropped"].values()) == len(texts)
