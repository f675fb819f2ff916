"""What a take-down refuses before anything is written, and what it says where nothing is to do."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chain_helpers import Chain, Delivery, prepare

from corpus.files import list_names
from corpus.forgotten import Forgotten, hash_id
from corpus.lease import holding
from corpus.snapshots import open_snapshot, snapshot_root
from pipeline.__main__ import main
from pipeline.forget import Request, forget, preview, read_ids
from pipeline.jobs import Pool
from pipeline.parquet import read_table
from pipeline.purge import find_holdings, labels_that_hold, out_of_reach, purge


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    monkeypatch.setattr("os.fsync", lambda _: None)


def records(*names: str) -> list[dict[str, Any]]:
    return [
        {
            "id": name,
            "text": f"{name} says something of its own, {name * 3}",
            "url": f"http://{name}",
        }
        for name in names
    ]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    made = Chain(tmp_path, {"partitions": 1, "bands": 4, "rows": 2, "ngram": 1})
    made.deliver(Delivery("s1", {("a", "1.jsonl"): records("one", "two", "three")}))
    made.deliver(Delivery("s2", {("a", "2.jsonl"): records("four")}))
    return made


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        (Request(ids=("",)), "an empty id is given"),
        (Request(ids=("a/one", " ")), "an empty id is given"),
        (Request(url_prefixes=("",)), "an empty URL prefix is given"),
        (Request(url_prefixes=("https://a.org/", "\t")), "an empty URL prefix is given"),
        (Request(url_prefixes=("https://",)), "the URL prefix https:// names no host"),
        (Request(url_prefixes=("HTTP:",)), "the URL prefix HTTP: names no host"),
        (Request(url_prefixes=("h",)), "the URL prefix h names no host"),
        (Request(url_prefixes=("https://a.org/", "http")), "the URL prefix http names no host"),
        (Request(url_prefixes=("www.",)), "the URL prefix www. names no host"),
        (Request(url_prefixes=("http:///a",)), "the URL prefix http:///a names no host"),
        (Request(sources=("a", "")), "an empty source is given"),
        (Request(), "nothing to forget"),
        (Request(sources=("b",)), "there is no source b"),
    ],
    ids=str,
)
def test_words_that_name_nothing_or_all_are_refused(
    chain: Chain, request_: Request, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        forget(chain.store, "t", request_)
    assert not [name for name in list_names(chain.store) if name.startswith("forgotten/")]
    assert open_snapshot(chain.store).label == "s2"


def test_a_file_url_is_refused_before_the_list_is_written(chain: Chain) -> None:
    with pytest.raises(ValueError, match=r"^store is file:.*: write a local path without a scheme"):
        forget(f"file://{chain.store}", "t", Request(ids=("a/one",)))
    with pytest.raises(ValueError, match=r"^store is file:.*: write a local path without a scheme"):
        next(preview(f"file://{chain.store}", "t", Request(ids=("a/one",))))
    assert not Path(chain.store, "forgotten").exists()


@pytest.mark.parametrize("option", ["--id", "--ids", "--url-prefix", "--source"])
def test_an_unset_variable_takes_nothing_out(
    chain: Chain, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["forget", chain.store, "--label", "t", "--id", "a/one", option, ""]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not Path(chain.store, "forgotten").exists()


@pytest.mark.parametrize("label", ["", "Not A Label", "../t", "t\n"])
def test_a_list_is_not_written_for_what_is_no_label(chain: Chain, label: str) -> None:
    with pytest.raises(ValueError, match="is no label"):
        forget(chain.store, label, Request(ids=("a/one",)))
    assert not Path(chain.store, "forgotten").exists()


def test_no_lease_is_left_where_no_store_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert main(["forget", str(missing), "--label", "t", "--id", "a/one", "--purge"]) == 2
    assert main(["rebuild", str(missing), str(tmp_path / "into")]) == 2
    assert "holds no complete snapshot" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_purge_leaves_a_running_command_alone(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["forget", chain.store, "--label", "t", "--id", "a/one"]
    assert main(arguments) == 0
    begun = Path(snapshot_root(chain.store, "s3"), "clean", "x.parquet")
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"of a refresh that is at work")
    with holding(chain.store, "refresh of s3"):
        assert main([*arguments, "--purge"]) == 2
        assert "is held by refresh of s3" in capsys.readouterr().err
        assert begun.exists()
        assert open_snapshot(chain.store, "s1").label == "s1"
    assert main([*arguments, "--purge"]) == 0
    assert not begun.exists()
    with pytest.raises(ValueError, match="s1 was withdrawn"):
        open_snapshot(chain.store, "s1")


def test_a_purge_is_made_up_for_under_another_label(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest snapshot holds the document no more, the older ones still do."""
    first = ["forget", chain.store, "--label", "t", "--id", "a/one"]
    later = ["forget", chain.store, "--label", "u", "--id", "a/one"]
    assert main(first) == 0
    capsys.readouterr()
    assert main(later) == 0
    out = capsys.readouterr().out
    assert "t holds none of them" in out
    assert "a/one: rows " in out
    assert "text on the list is still in s1, s2: `--purge` deletes it there" in out
    assert main([*later, "--purge"]) == 0
    assert "withdrawn: s1, s2" in capsys.readouterr().out
    assert main(later) == 0
    assert "still in" not in capsys.readouterr().out
    for label in ("s1", "s2"):
        with pytest.raises(ValueError, match=f"{label} was withdrawn.*use its successor t"):
            open_snapshot(chain.store, label)


def test_a_purge_after_a_later_refresh_spares_it(chain: Chain) -> None:
    chain.take_down("t", Request(ids=("a/one",)))
    chain.deliver(Delivery("s3", {("a", "3.jsonl"): records("five")}))
    assert purge(chain.store) == ["s1", "s2"]
    assert [open_snapshot(chain.store, label).label for label in ("t", "s3")] == ["t", "s3"]
    assert purge(chain.store) == ["s1", "s2"]


def test_tasks_elsewhere_are_given_a_store_that_they_find(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker of a cluster has a working directory of its own."""
    start, asked = Pool.map, set[str]()

    def map_elsewhere(pool: Pool, what: str, *given: object, least: int = 2) -> Iterator[object]:
        asked.add(what)
        with monkeypatch.context() as patch:
            patch.chdir("/")
            yield from list(start(pool, what, *given, least=least))  # type: ignore[arg-type]

    monkeypatch.chdir(chain.directory)
    monkeypatch.setattr(Pool, "map", map_elsewhere)
    arguments = ["forget", Path(chain.store).name, "--label", "t", "--source", "a"]
    for more in ("--dry-run", "--purge"):
        assert main([*arguments, more]) == 0
    assert {"take-down", "holdings"} <= asked
    with pytest.raises(ValueError, match="s1 was withdrawn"):
        open_snapshot(chain.store, "s1")


def test_a_purge_that_cannot_look_says_so(chain: Chain) -> None:
    chain.take_down("t", Request(ids=("a/one",)))
    part = open_snapshot(chain.store, "s1").parts[0].name
    Path(snapshot_root(chain.store, "s1"), f"clean/{part}.parquet").unlink()
    with pytest.raises(ValueError, match=rf"{part}\.parquet is damaged or missing"):
        purge(chain.store)


def test_learned_lines_are_listed_as_out_of_reach(chain: Chain) -> None:
    """A line that documents repeat stands in the list word for word, whoever wrote it first."""
    snapshot = open_snapshot(chain.store)
    clean = snapshot.recipe["clean"] | {"boilerplate": "sha256-0123"}
    learned = snapshot.model_copy(update={"recipe": snapshot.recipe | {"clean": clean}})
    path = f"{chain.store}/lists/sha256-0123"
    for made, known, expected in (
        (snapshot, "a/one", False), (learned, "a/one", True), (learned, "a/none", False),
    ):  # fmt: skip
        listed = Forgotten(ids=frozenset({hash_id(known)}))
        lines = list(out_of_reach(chain.store, [made], listed))
        assert any(line.endswith(path) for line in lines) == expected


def test_what_was_never_held_withdraws_nothing(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forget", chain.store, "--label", "t", "--id", "a/none", "--purge"]) == 0
    out = capsys.readouterr().out
    assert "s2 holds none of them" in out
    assert "withdrawn: no snapshot, none held them" in out


@pytest.mark.parametrize("kind", ["ids", "store", "forgotten", "recipe", "into"])
def test_files_of_the_wrong_kind_are_one_line(
    chain: Chain, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file, folder = chain.directory / "file", chain.directory / "folder"
    file.write_text("x")
    folder.mkdir()
    if kind == "forgotten":
        Path(chain.store, "forgotten").write_text("a file where a directory belongs")
    arguments = {
        "ids": ["forget", chain.store, "--label", "t", "--ids", str(folder)],
        "store": ["forget", f"{file}/store", "--label", "t", "--id", "a/one"],
        "forgotten": ["forget", chain.store, "--label", "t", "--id", "a/one"],
        "recipe": ["refresh", str(folder)],
        "into": ["rebuild", chain.store, f"{file}/store"],
    }[kind]
    assert main(arguments) == 2
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error" in each]
    assert line.startswith("error: ")
    place = {"ids": folder, "forgotten": "forgotten", "recipe": folder}.get(kind, file)
    assert str(place) in line
    named = {"ids": f"--ids {folder} is a directory", "recipe": f"recipe {folder} is a directory"}
    assert line.startswith(f"error: {named.get(kind, '')}")


def test_a_file_that_cannot_be_read_is_told_with_the_argument(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    file = chain.directory / "file"
    file.write_text("x")
    for arguments, told in (
        (["forget", chain.store, "--label", "t", "--ids", "/nope"], "--ids /nope: no such file"),
        (
            ["forget", chain.store, "--label", "t", "--ids", f"{file}/ids"],
            f"--ids {file}/ids cannot be read: Not a directory",
        ),
        (["refresh", f"{file}/recipe"], f"recipe {file}/recipe cannot be read: Not a directory"),
    ):
        assert main(arguments) == 2
        assert capsys.readouterr().err == f"error: {told}\n"


def test_ids_are_read_as_an_editor_on_windows_saves_them(chain: Chain) -> None:
    file = chain.directory / "ids.txt"
    file.write_bytes("a/one\r\n a/two \r\n\r\n".encode("utf-8-sig"))
    assert read_ids(str(file)) == ["a/one", "a/two"]
    file.write_bytes("a/one".encode("utf-16"))
    with pytest.raises(ValueError, match=r"ids\.txt is not UTF-8: .*") as caught:
        read_ids(str(file))
    assert len(str(caught.value).splitlines()) == 1


def test_ids_and_prefixes_that_cover_nothing_are_named(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--id", "a/one", "--id", "a/typo", "--id", "two", "--id", "a/one"]
    words += ["--url-prefix", "http://four", "--url-prefix", "http://five"]
    expected = [
        "2 of 3 ids cover no document that a snapshot holds, and are to stay out: "
        "a/typo, two; ids read SOURCE/KEY",
        "1 of 2 URL prefixes cover no document that a snapshot holds, and are to stay out: "
        "http://five",
    ]
    # Twice: what the first run took out lies in older snapshots, so it is no misspelt id.
    for _ in range(2):
        assert main(["forget", chain.store, "--label", "t", *words]) == 0
        out = capsys.readouterr().out.splitlines()
        assert [line for line in out if " cover no document " in line] == expected
    assert main(["forget", chain.store, "--label", "u", "--id", "a/one"]) == 0
    assert " cover no document " not in capsys.readouterr().out


def test_of_many_ids_that_cover_nothing_ten_are_named(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    file = chain.directory / "ids.txt"
    file.write_text("".join(f"a/{number}\n" for number in range(12)))
    assert main(["forget", chain.store, "--label", "t", "--ids", str(file)]) == 0
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "12 of 12 ids" in each]
    assert line.endswith(f": {', '.join(f'a/{number}' for number in range(10))} and 2 more")


def test_a_document_whose_host_has_other_capitals_is_named(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    five = {"id": "five", "text": "five speaks of hosts", "url": "HTTP://X.Test/A?b"}
    six = {"id": "six", "text": "six speaks of paths", "url": "http://x.test/a"}
    chain.deliver(Delivery("s3", {("a", "3.jsonl"): [five, six]}))
    prefixes = ["--url-prefix", "http://x.test/A", "--url-prefix", "http://x.test/B"]
    assert main(["forget", chain.store, "--label", "t", *prefixes]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " stays: " in line]
    assert lines == [
        "HTTP://X.Test/A?b stays: it is covered by http://x.test/A but for capitals of the host; "
        "name it as it is written"
    ]
    assert main(["forget", chain.store, "--label", "u", "--url-prefix", "HTTP://X.Test/A"]) == 0
    assert " stays: " not in capsys.readouterr().out


@pytest.mark.parametrize("workers", [0, -1])
def test_workers_that_are_none_are_refused_before_the_list_is_written(
    chain: Chain, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    before = sorted(list_names(chain.store))
    for command in (
        ["forget", chain.store, "--label", "t", "--id", "a/one"],
        ["rebuild", chain.store, f"{chain.store}-rebuilt"],
    ):
        with pytest.raises(SystemExit) as end:
            main([*command, "--workers", str(workers)])
        assert end.value.code == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.endswith(f"argument --workers: {workers}, expected 1 or more")
    assert sorted(list_names(chain.store)) == before
    assert not Path(f"{chain.store}-rebuilt").exists()


@pytest.mark.parametrize("prefix", ["http://o", "HTTPS://a.org", "a.org/b", "ftp://u@a.org/"])
def test_a_prefix_that_names_a_host_is_taken(chain: Chain, prefix: str) -> None:
    forget(chain.store, "t", Request(url_prefixes=(prefix,)))
    assert Path(chain.store, "forgotten", "t.json").exists()


def test_a_dry_run_tells_what_goes_and_writes_nothing(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    chain.deliver(
        Delivery("s3", {("b", "3.jsonl"): [{"id": "twin", "text": records("one")[0]["text"]}]})
    )
    before = sorted(list_names(chain.store))
    arguments = ["forget", chain.store, "--label", "t", "--id", "a/one", "--id", "a/none"]
    arguments += ["--url-prefix", "http://four/", "--url-prefix", "http://FOUR"]
    assert main([*arguments, "--dry-run"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert sorted(list_names(chain.store)) == before
    assert told[0] == "nothing is written: this is what would go"
    assert told[1] == "s3 would lose 1 of 4 kept documents and 1 dropped duplicates"
    assert told[2] == "kept ones: a/one"
    (held,) = [line for line in told if line.startswith("a/one: rows")]
    assert any(line.startswith("1 of 2 ids cover no document") for line in told)
    assert any("http://four stays: it is covered by http://FOUR" in line for line in told)
    assert main(arguments) == 0
    done = capsys.readouterr().out.splitlines()
    assert held in done  # which says the same of where it was
    assert any(line.startswith("documents: 1 kept ones and 1 dropped dupl") for line in done)
    assert open_snapshot(chain.store).label == "t"


def test_a_dry_run_purges_nothing(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["forget", chain.store, "--label", "t", "--id", "a/one", "--dry-run", "--purge"])
    assert end.value.code == 2
    assert "--purge: not allowed with argument --dry-run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("label", "identity"), [("Not A Label", "a/one"), ("t", ""), ("s1", "a/one")]
)
def test_a_dry_run_refuses_what_a_take_down_does(
    chain: Chain, capsys: pytest.CaptureFixture[str], label: str, identity: str
) -> None:
    arguments = ["forget", chain.store, "--label", label, "--id", identity]
    errors = []
    for more in ((), ("--dry-run",)):
        assert main([*arguments, *more]) == 2
        errors.append(capsys.readouterr().err)
    assert errors[0] == errors[1]


@pytest.mark.parametrize("deliveries", [2, 4])
def test_a_file_is_looked_through_once_however_many_snapshots_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deliveries: int
) -> None:
    """Each snapshot of a chain lists all files before it: 100 of them would read them 50 times."""
    made = Chain(tmp_path, {"partitions": 1, "bands": 4, "rows": 2, "ngram": 1})
    for n in range(deliveries):
        made.deliver(Delivery(f"s{n}", {("a", f"{n}.jsonl"): records(f"word{n}", f"other{n}")}))
    listed = Forgotten(ids=frozenset(map(hash_id, ("a/word0", "a/other1"))))
    manifests = [open_snapshot(made.store, f"s{n}") for n in range(deliveries)]
    read = Counter[str]()

    def counting(path: str, **options: Any) -> Any:  # noqa: ANN401 - a table
        read[path] += 1
        return read_table(path, **options)

    monkeypatch.setattr("pipeline.purge.read_table", counting)
    looks: list[Callable[[], Any]] = [
        lambda: list(find_holdings(made.store, listed)),
        lambda: labels_that_hold(made.store, Forgotten(ids=frozenset(["none"]))),
        lambda: list(out_of_reach(made.store, manifests, listed)),
    ]
    for look in looks:
        read.clear()
        assert look() or look is looks[1]
        assert len(read) >= deliveries - (look is looks[1])
        assert set(read.values()) == {1}
    held = {each.document: each.snapshots for each in find_holdings(made.store, listed)}
    every = tuple(f"s{n}" for n in range(deliveries))
    assert held == {"a/word0": every, "a/other1": every[1:]}
