"""Learning boilerplate: counts by document, whatever the parts and ranges; a list from a store."""

import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_helpers import random_text
from hypothesis import given
from hypothesis import strategies as st
from stage_helpers import run_stages_here

from corpus.files import list_names, read_bytes
from corpus.recipe import Recipe, Source, Tokenizer
from corpus.snapshots import Tree, open_snapshot
from pipeline import repeats
from pipeline.boilerplate import Boilerplate, list_lines
from pipeline.index import column_values
from pipeline.refresh import refresh
from pipeline.repeats import boilerplate, count_part, merge, spell_part
from pipeline.stretch import open_arrow


def write_parts(root: str, parts: Sequence[Sequence[tuple[str, bool]]]) -> Tree:
    """Write documents (text, whether it is kept) as the parts of a snapshot, as far as is read."""
    for number, part in enumerate(parts):
        for name in ("clean", "duplicates"):
            Path(root, name).mkdir(exist_ok=True)
        texts = pa.array([text for text, _ in part], pa.string())
        rows = pa.array([row for row, (_, kept) in enumerate(part) if not kept], pa.int64())
        pq.write_table(pa.table({"text": texts}), Path(root, "clean", f"p{number}.parquet"))
        pq.write_table(pa.table({"row": rows}), Path(root, "duplicates", f"p{number}.parquet"))
    return Tree(root)


lines = st.sampled_from(["menu", " menu", "Über uns", "x", "-", "", "once"])
documents = st.tuples(st.lists(lines, max_size=5).map("\n".join), st.booleans())


@given(
    st.lists(st.lists(documents, max_size=4), min_size=1, max_size=3),
    st.integers(1, 4),
    st.integers(2, 4),
)
def test_lines_are_counted_once_a_kept_document(
    parts: list[list[tuple[str, bool]]], shares: int, least: int
) -> None:
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        tree = write_parts(root, parts)
        names = [f"p{number}" for number in range(len(parts))]
        runs = [path for name in names for path in count_part(tree, name, name).paths]
        common = [
            path
            for n in range(shares)
            for path in merge(tree, str(n), runs, (n, shares), least).paths
        ]
        total: Counter[str] = Counter()
        for name in names:
            (path,) = spell_part(tree, name, name, common).paths
            total.update(orjson.loads(read_bytes(tree.own(path))))
        expected = Counter(
            line for part in parts for text, kept in part if kept for line in {*list_lines(text)}
        )
        assert total == {line: count for line, count in expected.items() if count >= least}
        hashes = [column_values(open_arrow(tree.own(path)), "hash") for path in common]
        together = np.concatenate(hashes)
        assert (np.diff(together) > 0).all()  # ranges follow one another


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A store of pages with a menu, one of them twice."""
    directory = tmp_path_factory.mktemp("repeats")
    rng = random.Random(5)
    pages = [f"Menu | Home\n{random_text(rng, 80)}\nAll rights {n % 2}" for n in range(8)]
    rows = [{"id": n, "text": text} for n, text in enumerate([*pages, pages[0]])]
    for name, part in (("a", rows[:4]), ("b", rows[4:])):
        data = b"".join(orjson.dumps(row) + b"\n" for row in part)
        (directory / f"{name}.jsonl").write_bytes(data)
    paths = tuple(str(directory / f"{name}.jsonl") for name in ("a", "b"))
    recipe = Recipe(
        store=str(directory / "store"),
        snapshot="first",
        sources=(Source(name="s", paths=paths),),
        tokenizer=Tokenizer(vocab_size=400),
        workers=1,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        run_stages_here(patch)
        refresh(recipe)
    return recipe


@pytest.mark.parametrize("entries", [2, 2**24])
def test_a_list_is_learned_from_a_store(
    store: Recipe, entries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_here(monkeypatch)
    monkeypatch.setattr(repeats, "_ENTRIES_A_MERGE", entries)
    out = tmp_path / "menu.jsonl"
    told = list(boilerplate(store, str(out), 4))
    learned = Boilerplate.parse(out.read_bytes())
    assert learned.lines == {"Menu | Home": 8, "All rights 0": 4, "All rights 1": 4}
    assert learned.head["snapshot"] == open_snapshot(store.store).fingerprint
    assert learned.head["min_documents"] == 4
    assert told[0] == "3 lines are in 4 or more of 8 documents"
    assert told[1].split(maxsplit=1) == ["8", "Menu | Home"]
    assert told[-1] == f"wrote {out} {learned.fingerprint}"
    assert [path.name for path in tmp_path.iterdir()] == ["menu.jsonl"]


def test_learning_goes_on_where_it_was_stopped(
    store: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise RuntimeError("stopped")

    run_stages_here(monkeypatch)
    out = str(tmp_path / "menu.jsonl")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(repeats, "merge", stop)
        list(boilerplate(store, out, 8))
    monkeypatch.setattr(repeats, "count_part", stop)
    list(boilerplate(store, out, 8))
    assert Boilerplate.parse(read_bytes(out)).lines == {"Menu | Home": 8}


def test_a_list_may_lie_at_a_url(store: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    run_stages_here(monkeypatch)
    list(boilerplate(store, "memory://repeats/menu.jsonl", 8))
    assert Boilerplate.parse(read_bytes("memory://repeats/menu.jsonl")).lines == {"Menu | Home": 8}
    assert list_names("memory://repeats") == ["menu.jsonl"]


def test_a_list_of_every_line_is_refused(store: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="min_documents is 1"):
        next(boilerplate(store, str(tmp_path / "out"), 1))


def test_a_store_without_a_snapshot_is_refused(store: Recipe, tmp_path: Path) -> None:
    nothing = store.model_copy(update={"store": str(tmp_path / "none")})
    with pytest.raises(ValueError, match="none"):
        next(boilerplate(nothing, str(tmp_path / "out"), 2))


def test_a_directory_in_place_of_a_list_is_refused_before_any_work(
    store: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"^{tmp_path} is a directory, expected a file"):
        next(boilerplate(store, str(tmp_path), 2))
    assert not Path(f"{tmp_path}.work").exists()


def test_a_list_inside_a_job_has_an_absolute_path(
    store: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ValueError, match="list is the relative path"):
        next(boilerplate(store, "out.jsonl", 2))
