"""Inputs are known by name, size and checksum, whatever machine and order they come from."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corpus.files import checksum, remove_tree, write_bytes
from corpus.recipe import Recipe, Source
from corpus.records import ReadOptions
from corpus.snapshots import Input
from pipeline import inputs
from pipeline.inputs import find_inputs, note_inputs


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.txt", "deep/a.txt.gz", "deep/er/x.jsonl.zst", "deep/er/y.md"):
        path = tmp_path / "raw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "raw"


def recipe(
    *sources: tuple[str, list[str]],
    store: str = "/nowhere",
    **fields: Any,  # noqa: ANN401 - fields differ in type
) -> Recipe:
    made = [Source(name=name, paths=tuple(paths), **fields) for name, paths in sources]
    return Recipe(store=store, snapshot="one", sources=tuple(made))


def find(*paths: str | Path, **fields: Any) -> list[Input]:  # noqa: ANN401
    return list(find_inputs(recipe(("s", [str(p) for p in paths]), **fields))[0])


def names(found: list[Input]) -> list[str]:
    return [each.name for each in found]


def test_a_directory_gives_all_below_it(raw: Path) -> None:
    found = find(raw)
    assert names(found) == [
        "a.txt",
        "b.jsonl",
        "deep/a.txt.gz",
        "deep/er/x.jsonl.zst",
        "deep/er/y.md",
    ]
    assert [each.format for each in found] == ["text", "jsonl", "text", "jsonl", "text"]
    assert [each.size_bytes for each in found] == [len(each.name) for each in found]
    assert [each.checksum for each in found] == [checksum(each.path) for each in found]
    assert found[0] == Input(
        snapshot="one", source="s", name="a.txt", format="text", size_bytes=5,
        path=str(raw / "a.txt"), checksum=checksum(str(raw / "a.txt")),
    )  # fmt: skip
    assert find(f"{raw}/") == found


def test_a_file_is_named_by_its_own_name(raw: Path) -> None:
    assert names(find(raw / "deep" / "er" / "x.jsonl.zst")) == ["x.jsonl.zst"]


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("*", ["a.txt", "b.jsonl"]),
        ("**/*.txt*", ["a.txt", "deep/a.txt.gz"]),
        ("deep/*/*", ["er/x.jsonl.zst", "er/y.md"]),
        ("deep/e?/x*", ["er/x.jsonl.zst"]),
        ("[ab].*", ["a.txt", "b.jsonl"]),
    ],
)
def test_a_glob_names_below_its_fixed_part(raw: Path, glob: str, expected: list[str]) -> None:
    assert names(find(f"{raw}/{glob}")) == expected


def test_the_machine_and_the_order_do_not_show(raw: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "data"
    moved.parent.mkdir()
    before = find(raw)
    raw.rename(moved)
    after = find(moved)
    assert [each.model_copy(update={"path": ""}) for each in after] == [
        each.model_copy(update={"path": ""}) for each in before
    ]
    files = sorted(path for path in moved.glob("*") if path.is_file())
    assert find(*files) == find(*files[::-1]) == find(f"{moved}/*")
    both = recipe(("t", [str(moved)]), ("s", [str(moved / "a.txt")]))
    swapped = both.model_copy(update={"sources": both.sources[::-1]})
    assert find_inputs(both) == find_inputs(swapped)
    assert [each.source for each in find_inputs(both)[0]] == ["s", *["t"] * 5]


def test_relative_paths_become_absolute(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(raw.parent)
    assert find("raw") == find(raw)
    assert find("raw/*") == find(f"{raw}/*")


def test_a_file_named_twice_is_one_input(raw: Path) -> None:
    assert names(find(raw / "a.txt", raw / "a.txt", f"{raw}/*.txt")) == ["a.txt"]


@pytest.mark.parametrize("missing", ["nothing.txt", "nothing/*.txt", "nothing"])
def test_a_missing_file_is_named(raw: Path, missing: str) -> None:
    with pytest.raises(ValueError, match=r"source s: there is no file at .*nothing"):
        find(raw, raw / missing)


def test_an_empty_directory_is_a_missing_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source s: there is no file at"):
        find(tmp_path)


def test_two_files_of_one_name_are_refused(raw: Path) -> None:
    (raw / "deep" / "a.txt").write_text("other")
    with pytest.raises(ValueError, match=r"are both called a\.txt: name their common parent"):
        find(raw / "a.txt", raw / "deep" / "a.txt")


def test_case_does_not_hide_what_a_file_is(tmp_path: Path) -> None:
    for name in ("A.CSV", "X.TXT", "y.txt.zstd", "SUMS.MD5", "State.json"):
        (tmp_path / name).write_text("x")
    found = find(tmp_path)
    assert [(each.name, each.format) for each in found] == [
        ("A.CSV", "csv"), ("X.TXT", "text"), ("y.txt.zstd", "text"),
    ]  # fmt: skip


def test_a_format_is_given_or_told_by_the_name(raw: Path) -> None:
    (raw / "data.bin").write_text("x")
    with pytest.raises(ValueError, match=r"cannot tell the format of .*data\.bin"):
        find(raw)
    assert {each.format for each in find(raw, format="text")} == {"text"}


@pytest.fixture
def remote() -> Iterator[str]:
    yield "memory://test-inputs"
    remove_tree("memory://test-inputs")


def test_urls_are_read_like_paths(remote: str) -> None:
    for name in ("a.txt", "deep/b.jsonl"):
        write_bytes(f"{remote}/{name}", name.encode())
    found = find(remote)
    assert names(found) == ["a.txt", "deep/b.jsonl"]
    assert [each.checksum for each in found] == [checksum(each.path) for each in found]
    assert {each.path.split("://")[0] for each in found} == {"memory"}
    assert names(find(f"{remote}/*/*.jsonl")) == ["deep/b.jsonl"]
    assert names(find(f"{remote}/deep/b.jsonl")) == ["b.jsonl"]


def test_checksums_are_taken_from_the_notes_while_the_state_is_the_same(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = str(tmp_path / "store")
    read: list[str] = []

    def counted(path: str) -> str:
        read.append(path)
        return checksum(path)

    monkeypatch.setattr(inputs, "checksum", counted)
    made = recipe(("s", [str(raw)]), ("t", [str(raw)]), store=store)
    found, states = find_inputs(made)
    assert len(read) == 5  # once a file, though two sources name it
    note_inputs(store, found, states)
    read.clear()
    assert find_inputs(made) == (found, states)
    assert read == []
    (raw / "a.txt").write_bytes(b"A.TXT")
    again, _ = find_inputs(made)
    assert read == [str(raw / "a.txt")]
    assert again[0].checksum == checksum(str(raw / "a.txt")) != found[0].checksum
    assert again[1:5] == found[1:5]


def test_notes_that_say_the_same_are_not_written_again(raw: Path, tmp_path: Path) -> None:
    found, states = find_inputs(recipe(("s", [str(raw)])))
    note_inputs(str(tmp_path), found, states)
    before = (tmp_path / "inputs.json").stat()
    note_inputs(str(tmp_path), found, states)
    after = (tmp_path / "inputs.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_first_bytes_tell_a_format_that_the_name_does_not(tmp_path: Path) -> None:
    (tmp_path / "part-0").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    (tmp_path / "part-1").write_bytes(b"WARC/1.0\r\n")
    (tmp_path / "part-2").write_bytes(b"<!DOCTYPE html><p>")
    (tmp_path / "part-3").write_bytes(b'<mediawiki xmlns="x">')
    assert [each.format for each in find(tmp_path)] == ["jsonl", "warc", "html", "wikipedia"]


def test_a_directory_passes_over_what_is_no_data(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = find(raw)
    for name in ("state.json", "dataset_info.json", "a.txt.md5", "_SUCCESS", ".b.jsonl.crc"):
        (raw / "deep" / name).write_text("{}")
    with caplog.at_level("INFO"):
        assert find(raw) == before
    assert caplog.text.count("is passed over") == 5
    assert names(find(raw / "deep" / "state.json")) == ["state.json"]


def test_a_file_may_have_glob_characters_in_its_name(raw: Path) -> None:
    (raw / "part[1].jsonl").write_text("")
    assert names(find(raw / "part[1].jsonl")) == ["part[1].jsonl"]


def test_an_input_carries_how_it_is_read(raw: Path) -> None:
    (found,) = find(raw / "b.jsonl", text_key="html", markup="html", id_key="key")
    assert found.options == ReadOptions(text_key="html", markup="html", id_key="key")
    (plain,) = find(raw / "b.jsonl")
    assert plain.identity != found.identity
