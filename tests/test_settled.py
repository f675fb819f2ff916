"""Lists and rules of the user's own: settled by content, kept in the store, part of the lineage."""

import json
import random
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from chain_helpers import prepare
from corpus_helpers import random_text

from corpus.recipe import Clean, Languages, Recipe, load_recipe
from corpus.snapshots import open_snapshot
from pipeline.contamination import Contamination
from pipeline.explain import open_store
from pipeline.parquet import read_table
from pipeline.proofs import audit
from pipeline.refresh import rebuild, refresh
from pipeline.settled import names_of, open_lists, settle

RULE = '''
import pyarrow as pa
import pyarrow.compute as pc

def no_shouting(batch):
    """Keep what does not begin with the word."""
    return pc.invert(pc.starts_with(batch["text"], "SHOUT"))
'''


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)
    prepare(monkeypatch)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A corpus in which every list and rule finds one document."""
    rng = random.Random(0)
    texts = {name: random_text(rng, 90) for name in ("plain", "blocked", "leaked", "lined", "mail")}
    texts["shouted"] = "SHOUT " + random_text(rng, 90)
    texts["leaked"] += " What is the answer to the question of life and of everything else here?"
    texts["lined"] += "\nSubscribe to our newsletter"
    texts["mail"] += " Write to jane@real-company.com today."
    lines = [
        json.dumps({"id": name, "text": text, "url": f"https://{name}.net/page"})
        for name, text in texts.items()
    ]
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "urls.txt").write_text("# spam\nblocked.net\n")
    (tmp_path / "test.jsonl").write_text(
        json.dumps({"q": "the answer to the question of life and of everything else here"})
    )
    listed = [
        {"version": 1, "min_documents": 2},
        {"line": "Subscribe to our newsletter", "documents": 9},
    ]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, listed)))
    (tmp_path / "my_rules.py").write_text(RULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_rules", raising=False)
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(
            {
                "store": str(tmp_path / "store"),
                "snapshot": "first",
                "sources": [{"name": "web", "paths": [str(raw)]}],
                "clean": {
                    "url_blocklists": [str(tmp_path / "urls.txt")],
                    "boilerplate": str(tmp_path / "lines.jsonl"),
                    "decontaminate": [str(tmp_path / "test.jsonl")],
                    "decontaminate_ngram": 9,
                    "mask": ["email"],
                    "user_rules": ["my_rules:no_shouting"],
                },
                "tokenizer": {"vocab_size": 300},
                "pack": {"sequence_length": 64},
                "dedup": {"partitions": 1},
            }
        )
    )
    return load_recipe(str(tmp_path / "recipe.yaml"))


def test_every_list_finds_its_document(recipe: Recipe, tmp_path: Path) -> None:
    snapshot = refresh(recipe).snapshot
    assert snapshot.counts.documents_dropped == {
        "contaminated": 1, "url_blocked": 1, "user_no_shouting": 1,
    }  # fmt: skip
    store = open_store(recipe.store)
    (part,) = snapshot.parts
    rows = read_table(store.tree.find(f"clean/{part.name}.parquet")).to_pylist()
    kept = {row["id"]: row["text"] for row in rows}
    assert set(kept) == {"web/plain", "web/lined", "web/mail"}
    assert "newsletter" not in kept["web/lined"]
    assert "email@example.com" in kept["web/mail"]
    drops = read_table(store.tree.find(f"dropped/{part.name}.parquet")).to_pylist()
    details = {row["rule"]: row["detail"] or "" for row in drops}
    assert "urls.txt" in details["url_blocked"]
    assert "test.jsonl" in details["contaminated"]
    assert audit(store).problems == []
    # Neither the audit nor a rebuild needs the lists where they lay.
    for name in ("urls.txt", "test.jsonl", "lines.jsonl"):
        (tmp_path / name).unlink()
    assert (
        rebuild(recipe.store, str(tmp_path / "again"), 1).snapshot.fingerprint
        == snapshot.fingerprint
    )


@pytest.mark.parametrize(
    ("name", "added", "key"),
    [
        ("urls.txt", "other.net\n", "clean.url_blocklists"),
        ("test.jsonl", '\n{"q": "' + " ".join(map(str, range(20))) + '"}', "clean.decontaminate"),
        ("lines.jsonl", '\n{"line": "Another line", "documents": 3}', "clean.boilerplate"),
        ("my_rules.py", "\n# changed\n", "clean.user_rules"),
    ],
)
def test_a_changed_list_is_another_lineage(
    recipe: Recipe, tmp_path: Path, name: str, added: str, key: str
) -> None:
    refresh(recipe)
    path = tmp_path / name
    path.write_text(path.read_text() + added)
    with pytest.raises(ValueError, match=rf"{key} was .* and is .* now: it is fixed for a store"):
        refresh(recipe.model_copy(update={"snapshot": "second"}))


def test_comments_and_order_of_a_url_list_do_not_show(recipe: Recipe, tmp_path: Path) -> None:
    refresh(recipe)
    (tmp_path / "urls.txt").write_text("blocked.net # spam\n\nblocked.net\n")
    assert refresh(recipe).tasks_run == 0


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        ([], []),
        (["/data/urls.txt"], ["urls.txt"]),
        (["urls.txt", "./more.txt"], ["urls.txt", "more.txt"]),
        (["/a/rte/dev.tsv", "/a/cola/dev.tsv"], ["rte/dev.tsv", "cola/dev.tsv"]),
        (["s3://b/x/dev.tsv", "s3://b//y/z/dev.tsv"], ["x/dev.tsv", "y/z/dev.tsv"]),
        (["a/b/c.txt", "a/b.txt"], ["b/c.txt", "b.txt"]),
        # Directories are compared whole, not letter by letter.
        (["a/task1/t.txt", "a/task2/t.txt"], ["task1/t.txt", "task2/t.txt"]),
    ],
)
def test_lists_are_told_by_their_path_below_what_they_share(
    paths: list[str], names: list[str]
) -> None:
    assert names_of(paths) == names


def test_a_list_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the list a/b\.txt is named twice: leave one"):
        names_of(["a/b.txt", "a/c.txt", "a//b.txt"])


def test_two_evaluation_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for task in ("rte", "cola"):
        (tmp_path / task).mkdir()
        (tmp_path / task / "dev.txt").write_text(f"{task} is one of the tasks that we go by here")
    paths = tuple(f"{tmp_path}/{task}/dev.txt" for task in ("rte", "cola"))
    (listed,) = settle(Clean(decontaminate=paths))[1].values()
    found = Contamination.parse(listed).find(
        pa.array(["cola is one of the tasks that we go by here"])
    )
    assert found[0] is not None and found[0].detail == "example 1 of cola/dev.txt"


def test_a_settled_section_stays_as_it_is(recipe: Recipe) -> None:
    settled, lists = settle(recipe.clean)
    assert len(lists) == 3
    again, none = settle(settled)
    assert (again, none) == (settled, {})
    assert settle(Clean()) == (Clean(), {})


def test_a_missing_list_is_named(recipe: Recipe, tmp_path: Path) -> None:
    snapshot = refresh(recipe).snapshot
    (list_path, *_) = sorted((tmp_path / "store" / "lists").iterdir())
    list_path.unlink()
    config = Clean.model_validate(open_snapshot(recipe.store, snapshot.label).recipe["clean"])
    with pytest.raises(ValueError, match=r"the list .* is missing: put it back"):
        open_lists(recipe.store, config)
    gone = recipe.clean.model_copy(update={"url_blocklists": ("/nowhere/urls.txt",)})
    with pytest.raises(ValueError, match=r"there is no list at /nowhere/urls\.txt"):
        settle(gone)
    directory = recipe.clean.model_copy(update={"url_blocklists": (str(tmp_path),)})
    with pytest.raises(ValueError, match=f"the list at {tmp_path} cannot be read"):
        settle(directory)
    english = recipe.clean.model_copy(update={"languages": Languages(keep=("eng",))})
    with pytest.raises(ValueError, match="no text is ever labelled 'eng'"):
        settle(english)


def test_a_threshold_of_no_rule_is_refused_before_any_work(recipe: Recipe) -> None:
    config = recipe.clean.model_copy(update={"thresholds": {"gopher_min_wrods": 3}})
    with pytest.raises(ValueError, match=r"gopher_min_wrods.*did you mean gopher_min_words"):
        refresh(recipe.model_copy(update={"clean": config}))


def test_another_rule_under_the_same_name_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    settled, _ = settle(recipe.clean)
    (tmp_path / "my_rules.py").write_text(RULE + "\n# changed\n")
    with pytest.raises(ValueError, match=r"my_rules:no_shouting: its module has checksum"):
        settle(settled)
