"""Inputs are known by name, size and checksum, whatever machine and order they come from."""

import gzip
import lzma
import os
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from benchmarks.fuzz import tar_of
from corpus.archives import InputFile
from corpus.files import checksum, list_names, write_bytes
from corpus.readers import read_records
from corpus.recipe import Recipe, Source
from corpus.records import ReadOptions, Record
from corpus.snapshots import Input
from pipeline import inputs, jobs
from pipeline.inputs import find_inputs, note_inputs, warn_of_moved


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


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.tar", "tar"), ("a.TGZ", "tar"), ("a.txz", "tar"), ("a.tar.zst", "tar"), ("a.zip", "zip")],
)
def test_an_archive_is_told_by_its_name(tmp_path: Path, name: str, form: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    (found,) = find(tmp_path, members="paragraphs")
    assert (found.format, found.options.members) == (form, "paragraphs")
    with pytest.raises(ValueError, match=f"is a {form} by its name and no jsonl: .* members: jso"):
        find(tmp_path, format="jsonl")


def test_an_input_of_an_older_store_is_the_same_input(raw: Path) -> None:
    """Keys that came later do not count where they say nothing."""
    (plain, *_), (told, *_) = find(raw), find(raw, members="text")
    options = plain.identity[3]
    assert options == (
        '{"text_key":"text","id_key":"id","url_key":"url","language_key":"language","markup":"none"}'
    )
    assert told.identity[3] == options[:-1] + ',"members":"text"}'


def test_urls_are_read_like_paths(remote: str) -> None:
    for name in ("a.txt", "deep/b.jsonl"):
        write_bytes(f"{remote}/{name}", name.encode())
    found = find(remote)
    assert names(found) == ["a.txt", "deep/b.jsonl"]
    assert [each.checksum for each in found] == [checksum(each.path) for each in found]
    assert {each.path.split("://")[0] for each in found} == {"memory"}
    assert names(find(f"{remote}/*/*.jsonl")) == ["deep/b.jsonl"]
    assert names(find(f"{remote}/deep/b.jsonl")) == ["b.jsonl"]


def test_an_empty_object_for_a_folder_is_no_file(
    remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(f"{remote}/a.txt", b"a")
    root = remote.removeprefix("memory:/")
    said = {name: {"size": 0, "type": "file"} for name in (f"{root}/", f"{root}/a.txt")}
    for question in ("find", "glob"):
        monkeypatch.setattr(MemoryFileSystem, question, lambda *_, **__: dict(said))
    assert names(find(remote)) == names(find(f"{remote}/**")) == list_names(remote) == ["a.txt"]


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


def test_files_that_only_moved_are_told(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Named by another folder, or moved, they are new inputs: the corpus is right, the cost not."""
    before = find(raw / "deep")
    warn_of_moved(before, find(raw / "deep", encoding="latin-1"))
    warn_of_moved((), before)
    assert not caplog.messages
    warn_of_moved(before, find(raw))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("3 of the new inputs have the content of files that were ")
    assert "(deep/a.txt.gz as a.txt.gz)" in caplog.messages[0]


def test_first_bytes_tell_a_format_that_the_name_does_not(tmp_path: Path) -> None:
    (tmp_path / "part-0").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    (tmp_path / "part-1").write_bytes(b"WARC/1.0\r\n")
    (tmp_path / "part-2").write_bytes(b"<!DOCTYPE html><p>")
    (tmp_path / "part-3").write_bytes(b'<mediawiki xmlns="x">')
    assert [each.format for each in find(tmp_path)] == ["jsonl", "warc", "html", "wikipedia"]


def test_first_bytes_tell_a_tar_in_any_compression(tmp_path: Path) -> None:
    made = tar_of({"a.txt": b"a"})
    (tmp_path / "part").write_bytes(made)
    (tmp_path / "other").write_bytes(gzip.compress(made))
    (tmp_path / "subset00_data.xz").write_bytes(lzma.compress(made))
    assert [each.format for each in find(tmp_path)] == ["tar"] * 3


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


def test_hidden_folders_are_passed_over(raw: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = find(raw)
    for name in (".git/HEAD", ".git/objects/a", "deep/.cache/huggingface/x.parquet"):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text("x")
    with caplog.at_level("INFO"):
        assert find(raw) == before
    assert [record.getMessage().split(" ")[0] for record in caplog.records] == [
        f"{raw}/.git", f"{raw}/deep/.cache",
    ]  # fmt: skip


@pytest.mark.parametrize("glob", ["", "/**", "/**/*.jsonl", "/d*/**"])
def test_a_store_below_its_own_inputs_is_passed_over(
    raw: Path, caplog: pytest.LogCaptureFixture, glob: str
) -> None:
    """Also where it has files only that a killed run left."""
    store = raw / "deep" / "store"
    made = recipe(("s", [f"{raw}{glob}"]), store=str(store))
    before = find_inputs(made)[0]
    (raw / "deep" / "store.jsonl").write_text("{}")
    (beside,) = set(find_inputs(made)[0]) - set(before)
    store.mkdir()
    for name in ("inputs.json", "part.jsonl"):
        (store / name).write_text("{}")
    with caplog.at_level("INFO"):
        assert set(find_inputs(made)[0]) == {*before, beside}
    assert f"{store}/ is passed over: it is a store" in caplog.text
    other = recipe(("s", [f"{raw}{glob}"]), store="/nowhere")
    assert len(find_inputs(other)[0]) > len(before) + 1


def test_another_store_is_known_by_its_notes(raw: Path) -> None:
    before = find(raw)
    for name in ("inputs.json", "lineage.json", "clean/a.txt"):
        (raw / "deep" / "er" / "store" / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / "deep" / "er" / "store" / name).write_text("{}")
    assert find(raw) == before
    # Who names what is in it means it.
    assert names(find(raw / "deep" / "er" / "store" / "clean")) == ["a.txt"]


def test_what_a_disk_lists_beside_files_is_refused(raw: Path, tmp_path: Path) -> None:
    odd = raw / "odd.txt"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    odd.symlink_to(elsewhere)
    with pytest.raises(ValueError, match=f"^{odd} is a link to a directory, which is not followed"):
        find(raw)
    elsewhere.rmdir()
    with pytest.raises(ValueError, match=f"^{odd} is a link that leads nowhere"):
        find(raw)
    odd.unlink()
    os.mkfifo(odd)
    for given in (raw, odd):
        with pytest.raises(ValueError, match=f"^{odd} is no file, as a pipe is none"):
            find(given)
    odd.unlink()
    odd.symlink_to(raw / "a.txt")
    assert "odd.txt" in names(find(raw))


def test_a_name_that_is_not_utf8_is_refused(raw: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(raw / "deep") + b"/caf\xe9.jsonl"))
    path.write_text("{}")
    for given in (raw, f"{raw}/*/*.jsonl"):
        with pytest.raises(ValueError, match=r"deep/caf\\udce9.jsonl' is not UTF-8: rename"):
            find(given)


ABOUT = ("README.md", "LICENSE", "CITATION.cff", "load.py", "licence.txt")


@pytest.mark.parametrize("mark", [".gitattributes", "dataset_infos.json", None])
def test_what_describes_a_dataset_at_its_top_is_passed_over(
    raw: Path, caplog: pytest.LogCaptureFixture, mark: str | None
) -> None:
    """Only where the directory says that it is one."""
    before = find(raw)
    for name in ABOUT:
        (raw / name).write_text("x")
    (raw / "deep" / "license.md").write_text("a document")
    if mark is None:
        with pytest.raises(ValueError, match=r"cannot tell the format of .*CITATION\.cff"):
            find(raw)
        return
    (raw / mark).write_text("{}")
    with caplog.at_level("INFO"):
        found = find(raw)
    assert names(found) == sorted([*names(before), "deep/license.md"])
    assert caplog.text.count("is passed over") == len(ABOUT) + 1


def test_a_dataset_that_was_saved_is_read(raw: Path) -> None:
    """As `datasets.DatasetDict.save_to_disk` lays it out: Arrow streams and its own notes."""
    place = raw / "saved"
    for split in ("train", "test"):
        (place / split).mkdir(parents=True)
        table = pa.table({"text": [f"{split} {n}" for n in range(3)], "label": [0, 1, 0]})
        with pa.ipc.new_stream(place / split / "data-00000-of-00001.arrow", table.schema) as out:
            out.write_table(table, max_chunksize=2)
        (place / split / "state.json").write_text("{}")
        (place / split / "dataset_info.json").write_text("{}")
    (place / "dataset_dict.json").write_text("{}")
    found = find(place)
    assert names(found) == [f"{split}/data-00000-of-00001.arrow" for split in ("test", "train")]
    texts = [
        each.text
        for entry in found
        for each in read_records(InputFile(entry.path), entry.format, 100)
        if isinstance(each, Record)
    ]
    assert texts == [f"{split} {n}" for split in ("test", "train") for n in range(3)]


class Hub(MemoryFileSystem):  # type: ignore[misc]
    """The hub's filesystem as far as paths go, in memory."""

    protocol = "hf"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its parent has it
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("hf://", "memory://")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(_registry, "hf", Hub)
    monkeypatch.setattr(Hub, "store", {})
    for name in ("plain/train-0", "plain/test-0", "other/train-0"):
        with fsspec.open(f"hf://datasets/owner/name/{name}.parquet", "wb") as stream:
            pq.write_table(pa.table({"text": [name]}), stream)
    for name in ("README.md", ".gitattributes", "plain/README.md"):
        write_bytes(f"hf://datasets/owner/name/{name}", b"---")
    return "hf://datasets/owner/name"


def test_a_dataset_of_the_hub_is_read(hub: str) -> None:
    found = find(hub)
    assert names(found) == [
        "other/train-0.parquet", "plain/test-0.parquet", "plain/train-0.parquet",
    ]  # fmt: skip
    assert {each.path.split("://")[0] for each in found} == {"hf"}
    (record,) = read_records(InputFile(found[0].path), "parquet", 100)
    assert isinstance(record, Record)
    assert record.text == "other/train-0"
    assert names(find(f"{hub}/plain/train-*.parquet")) == ["train-0.parquet"]
    with pytest.raises(ValueError, match=r"no file at hf://datasets/owner/none, or .* HF_TOKEN"):
        find("hf://datasets/owner/none")


def test_a_name_of_the_hub_is_told_how_it_is_written(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(raw)
    expected = (
        r"there is no file at stanfordnlp/imdb: .* write hf://datasets/stanfordnlp/imdb, with"
    )
    with pytest.raises(ValueError, match=expected):
        find("stanfordnlp/imdb")
    for missing in ("data/a.jsonl.gz", "./a/b", "a", "a/b/c", "a/*"):
        with pytest.raises(ValueError, match=r"there is no file at [^:]*$"):
            find(missing)


def test_a_file_without_a_state_is_read_again(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe(("s", [str(raw)]), store=str(tmp_path / "store"))
    monkeypatch.setattr(inputs, "state_key", lambda path, _: "" if path.endswith("a.txt") else "1")
    found, states = find_inputs(made)
    note_inputs(made.store, found, states)
    monkeypatch.setattr(inputs, "checksum", lambda _: "new")
    assert [each.name for each in find_inputs(made)[0] if each.checksum == "new"] == ["a.txt"]


def test_much_that_is_new_is_noted_as_it_comes(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A command that is killed on the way reads only the rest when it is run again."""
    made = recipe(("s", [str(raw)]), ("t", [str(raw)]), store=str(tmp_path / "store"))
    expected = find_inputs(made)
    assert not (tmp_path / "store").exists()
    monkeypatch.setattr(inputs, "_READ_HERE_BYTES", 0)
    monkeypatch.setattr(inputs, "_NOTE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(jobs, "_FILES_OF_A_RUN", 2)
    read: list[str] = []

    def die_late(path: str) -> str:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(path)
        return checksum(path)

    monkeypatch.setattr(inputs, "checksum", die_late)
    with pytest.raises(KeyboardInterrupt):
        find_inputs(made)
    known = read[:2]  # the third's run was not done
    read.clear()
    caplog.set_level("INFO")
    assert find_inputs(made) == expected
    assert sorted([*read, *known]) == sorted(expected[1])
    assert "checksums of 3 raw files, 0.0 GB" in caplog.text


def test_a_page_with_links_is_no_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """fsspec's HTTP takes every page for a directory of its links."""

    class Web(MemoryFileSystem):  # type: ignore[misc]
        protocol = "http"
        asked: list[str] = []  # noqa: RUF012

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return path

        def info(self, path: str, **_: Any) -> dict[str, Any]:  # noqa: ANN401
            return {"name": path, "size": 1, "type": "file"}

        def isdir(self, path: str) -> bool:
            self.asked.append(path)
            return True

        def find(self, path: str, **_: Any) -> dict[str, Any]:  # noqa: ANN401
            return {f"{path}a.jsonl": {"size": None, "type": "file"}}

    monkeypatch.setitem(_registry, "http", Web)
    monkeypatch.setattr(inputs, "checksum", lambda _: "0")
    page, folder = "http://e.com/page.html", "http://e.com/data/"
    assert [(each.name, each.path) for each in find(page)] == [("page.html", page)]
    assert Web.asked == []
    assert [(each.name, each.path) for each in find(folder)] == [("a.jsonl", f"{folder}a.jsonl")]


def test_a_hub_that_is_not_reached_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreached(Exception):
        """As httpx raises it."""

    def unreached(*_: object, **__: object) -> None:
        raise Unreached("Name or service not known")

    Unreached.__module__ = "httpx"
    monkeypatch.setitem(_registry, "hf", Hub)
    monkeypatch.setattr(Hub, "info", unreached)
    with pytest.raises(OSError, match=r"^hf://datasets/a/b could not be read over the network: Un"):
        find("hf://datasets/a/b")
