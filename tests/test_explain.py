"""What a store says of itself, on a small one made without Ray."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from corpus_helpers import write_corpus
from stage_helpers import run_stages_here, shard_documents, table_rows

from corpus.membership import shard_plan
from corpus.recipe import load_recipe
from corpus.shards import Shard
from corpus.snapshots import open_snapshot, tokenizer_root
from corpus.tokenizer import open_tokenizer
from pipeline.__main__ import main
from pipeline.explain import (
    Store,
    explain,
    open_store,
    show,
    show_row,
)
from pipeline.forget import Request, forget
from pipeline.proofs import audit
from pipeline.refresh import refresh
from pipeline.rows import document_rows, row_texts
from pipeline.signatures import write_arrow
from pipeline.stretch import open_arrow


class Made(NamedTuple):
    directory: Path
    recipe: Path
    store: Store
    kept: dict[str, str]  # text by id
    dropped: list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("explain")
    recipe = write_corpus(directory, files=4, documents=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        run_stages_here(patch)
        refresh(load_recipe(str(recipe)))
    store = open_store(str(directory / "store"))
    names = [part.name for part in store.snapshot.parts]
    dropped = [
        row
        for name in names
        for kind in ("", ".dedup")
        for row in table_rows(store.tree.find(f"dropped/{name}{kind}.parquet"))
    ]
    gone = {(row["id"], row["file"], row["position"]) for row in dropped}
    kept = {
        row["id"]: row["text"]
        for name in names
        for row in table_rows(store.tree.find(f"clean/{name}.parquet"))
        if (row["id"], row["file"], row["position"]) not in gone
    }
    return Made(directory, recipe, store, kept, dropped)


def test_the_store_is_what_it_should_be(made: Made) -> None:
    assert len(made.kept) == made.store.snapshot.counts.documents_kept
    assert len(made.dropped) == sum(made.store.snapshot.counts.documents_dropped.values())
    assert {row["rule"] for row in made.dropped} >= {"exact", "minhash", "same_id"}
    assert audit(made.store) == ([], [])
    assert made.store.recipe.snapshot == "first"


def test_a_kept_document_lies_in_the_rows_that_explain_names(made: Made) -> None:
    tokenizer = open_tokenizer(tokenizer_root(made.store.root, made.store.snapshot.tokenizer))
    for identity in sorted(made.kept)[::9]:
        lines = list(explain(made.store, identity))
        mine = lines.index(next(line for line in lines if line.startswith("  kept, ")))
        assert lines[mine] == f"  kept, {len(made.kept[identity]):,} characters"
        assert repr(made.kept[identity][:400]) in lines[mine + 2]
        packed, _, rows = lines[mine + 1].removeprefix("  packed in ").partition(", rows ")
        first, last = map(int, rows.split(" to "))
        shard = Shard(made.store.tree.find(packed))
        entry = next(each for each in made.store.snapshot.shards if each.path == packed)
        number = shard_documents(made.store, entry).index(identity)
        parts = [
            text
            for row in range(first, last + 1)
            for document, text in row_texts(shard, row, tokenizer)
            if document == number
        ]
        assert "".join(parts) == made.kept[identity]
        assert len(parts) == last - first + 1


def test_every_kept_document_has_its_rows(made: Made) -> None:
    """The places that explain computes are those at which the shards' documents begin."""
    names: list[str] = []
    for entry in made.store.snapshot.shards:
        shard = Shard(made.store.tree.find(entry.path))
        ids, rows = shard_documents(made.store, entry), document_rows(shard)
        assert len(ids) == len(rows)
        begun = -1
        lies_in: dict[int, list[int]] = {}
        for row in range(shard.rows):
            starts = shard.document_starts(row).tolist()
            for start in starts if starts[:1] == [1] else [0, *starts]:
                begun += start > 0
                lies_in.setdefault(begun, []).append(row)
        assert rows == [[(lies_in[n][0], lies_in[n][-1])] for n in range(len(ids))]
        plan = shard_plan(made.store.snapshot, entry)
        assert plan.path == entry.path
        names += ids
    assert sorted(names) == sorted(made.kept)


@pytest.mark.parametrize("packing", ["full-sentences", "best-fit", "segment-pair"])
def test_explain_names_the_rows_of_every_kept_document(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packing: str
) -> None:
    store = made.store
    if packing != "full-sentences":
        run_stages_here(monkeypatch)
        store_path = str(tmp_path / "store")
        refresh(load_recipe(str(made.recipe), [f"store={store_path}", f"pack.format={packing}"]))
        store = open_store(store_path)
    told = 0
    for entry in store.snapshot.shards:
        pieces = Shard(store.tree.find(entry.path)).pieces()
        for number, identity in enumerate(shard_documents(store, entry)):
            lines = list(explain(store, identity))
            start = f"  packed in {entry.path}, rows "
            (line,) = [line for line in lines if line.startswith(start)]
            runs = [run.split(" to ") for run in line.removeprefix(start).split(", ")]
            named = [row for first, last in runs for row in range(int(first), int(last) + 1)]
            assert named == sorted(set(pieces.rows[pieces.documents == number].tolist()))
            told += 1
    assert told == store.snapshot.counts.documents_kept


def test_a_kept_document_that_was_not_packed_is_noticed(made: Made, tmp_path: Path) -> None:
    identity = min(made.kept)
    none = made.store.snapshot.model_copy(update={"shards": ()})
    with pytest.raises(ValueError, match=f"has no shard for {identity}: run `python -m pipe"):
        list(explain(made.store._replace(snapshot=none), identity))
    copy = tmp_path / "store"
    shutil.copytree(made.store.root, copy)
    for path in copy.glob("snapshots/first/tokens/*.arrow"):
        write_arrow(str(path), open_arrow(str(path)).slice(0, 0))
    with pytest.raises(ValueError, match=f"has no tokens for {identity}: run `python -m pipe"):
        list(explain(open_store(str(copy)), identity))


@pytest.mark.parametrize("rule", ["minhash", "exact", "same_id"])
def test_a_duplicate_stands_beside_its_witness(made: Made, rule: str) -> None:
    row = next(row for row in made.dropped if row["rule"] == rule)
    lines = list(explain(made.store, row["id"]))
    start = lines.index(f"{row['id']} (first: {row['file']}, record {row['position']})")
    compared = {
        "minhash": f": value {row['value'] or 0:.6g}, threshold 0.8", "exact": ": value 1",
        "same_id": "",
    }[rule]  # fmt: skip
    assert lines[start + 1] == f"  dropped in dedup by {rule}{compared}"
    witness = (row["witness_id"], row["witness_file"], row["witness_position"])
    assert lines[start + 2] == (
        f"  in favour of {witness[0]} (first: {witness[1]}, record {witness[2]}), which stays"
    )
    assert lines[start + 3].startswith("  dropped: ")
    assert lines[start + 4].startswith(f"  kept: {made.kept[witness[0]][:400]!r}")


def test_a_document_that_failed_a_rule(made: Made) -> None:
    row = next(row for row in made.dropped if row["rule"] == "gopher_min_words")
    lines = list(explain(made.store, row["id"]))
    assert "  dropped in clean by gopher_min_words: value 20, threshold 50" in lines


def test_an_unknown_document_is_refused(made: Made) -> None:
    with pytest.raises(ValueError, match="knows no document books/nothing"):
        list(explain(made.store, "books/nothing"))
    with pytest.raises(ValueError, match="knows no document nothing"):
        list(explain(made.store, "nothing"))


def test_a_document_of_a_source_that_was_taken_down(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_here(monkeypatch)
    copy = tmp_path / "store"
    shutil.copytree(made.store.root, copy)
    forget(str(copy), "no-news", Request(sources=("news",)))
    store = open_store(str(copy))
    identity = next(each for each in made.kept if each.startswith("news/"))
    assert list(explain(store, identity)) == [
        f"{identity}: its source news was taken down and stays out of this store"
    ]
    for unknown in ("books/nothing", "news"):
        with pytest.raises(ValueError, match=f"knows no document {unknown}"):
            list(explain(store, unknown))


def test_show_adds_up(made: Made) -> None:
    lines = list(show(made.store))
    counts = made.store.snapshot.counts
    assert f"documents    {counts.documents_in:,} in, {counts.documents_kept:,} kept" in lines
    sources = [line for line in lines if line.startswith("source ")]
    numbers = [line.replace(",", "").split() for line in sources]
    assert [words[1] for words in numbers] == ["books:", "news:"]
    assert sum(int(words[2]) for words in numbers) == counts.documents_in
    assert sum(int(words[4]) for words in numbers) == counts.documents_kept
    drops = [line.split() for line in lines if " dropped by " in line]
    assert sum(int(words[0]) for words in drops) == sum(counts.documents_dropped.values())
    assert [line.split()[0] for line in lines[-len(made.store.snapshot.shards) :]] == [
        entry.path for entry in made.store.snapshot.shards
    ]


def test_a_shown_row_names_the_documents_that_lie_in_it(made: Made) -> None:
    entry = max(made.store.snapshot.shards, key=lambda entry: entry.rows)
    place = entry.path.removeprefix("shards/").removesuffix(".arrow")
    pieces: dict[str, str] = {}
    for row in range(entry.rows):
        head, *lines = show_row(made.store, f"{place}:{row}")
        length = int(head.split(": ")[1].split()[0])
        assert head == f"{place}:{row}: {length} tokens, {128 - length} padding"
        for line in lines:
            name, _, text = line.strip().partition(": ")
            pieces[name] = pieces.get(name, "") + str(ast.literal_eval(text))
    assert pieces == {name: made.kept[name] for name in shard_documents(made.store, entry)}


@pytest.mark.parametrize(
    "place",
    [
        "",
        "first/books/train-00000",
        "first/books/train-99999:0",
        "books/train-00000:0",
        "other/books/train-00000:0",
        "first/books/train-00000:x",
        "x:-1",
    ],
)
def test_a_place_that_is_no_row_is_refused(made: Made, place: str) -> None:
    with pytest.raises(
        ValueError, match="is no row of this snapshot: write SNAPSHOT/SOURCE/SPLIT-00000:ROW"
    ):
        list(show_row(made.store, place))


def test_a_row_beyond_the_shard_is_refused(made: Made) -> None:
    with pytest.raises(ValueError, match=r"rows 0 to \d+, there is no row 99999"):
        list(show_row(made.store, "first/books/train-00000:99999"))


def test_a_damaged_table_is_named(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 no")
    for damaged in (path, tmp_path / "nothing.parquet"):
        with pytest.raises(ValueError, match=f"{damaged.name} is damaged or missing"):
            table_rows(damaged)


def test_a_store_on_a_url_is_the_same_snapshot(
    made: Made, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_here(monkeypatch)
    outcome = refresh(load_recipe(str(made.recipe), [f"store={remote}"]))
    assert outcome.snapshot.fingerprint == made.store.snapshot.fingerprint
    assert audit(open_store(remote)) == ([], [])
    again = refresh(load_recipe(str(made.recipe), [f"store={remote}"]))
    assert (again.tasks_run, again.snapshot) == (0, outcome.snapshot)
    identity = min(made.kept)
    assert list(explain(open_store(remote), identity)) == list(explain(made.store, identity))


def test_the_command_line(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    store = made.store.root
    identity = next(row["id"] for row in made.dropped if row["rule"] == "minhash")
    assert main(["explain", store, identity]) == 0
    assert "dropped in dedup by minhash" in capsys.readouterr().out
    assert main(["explain", store, "books/nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert main(["show", store]) == 0
    assert open_snapshot(store).fingerprint in capsys.readouterr().out
    assert main(["show", store, "--row", "first/books/train-00000:0"]) == 0
    assert "padding" in capsys.readouterr().out
    assert main(["show", f"{store}-not"]) == 2
    assert "holds no complete snapshot" in capsys.readouterr().err
    assert main(["schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr().out)
