"""Where nothing of a source is kept, the user reads why."""

from pathlib import Path

import pytest
from chain_helpers import Chain, Delivery, prepare

from corpus.recipe import Recipe
from corpus.snapshots import list_snapshots, open_snapshot, snapshot_root
from pipeline.__main__ import main
from pipeline.losses import tell_lost
from pipeline.refresh import refresh


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path, {"partitions": 1, "bands": 4, "rows": 2, "ngram": 1})


GOOD = [{"id": f"g{n}", "text": f"sentence {n} of its own, {n * 7919}"} for n in range(3)]
WRONG = [{"id": f"w{n}", "body": f"text {n}"} for n in range(2)]
LOST = (
    "2 invalid_record; the first by invalid_record (b.jsonl, record 1): no string under the key "
    "text"
)


def lost(chain: Chain) -> list[str]:
    snapshot = open_snapshot(chain.store)
    return list(tell_lost(snapshot, snapshot.tree(chain.store)))


def recipe_file(chain: Chain, recipe: Recipe) -> str:
    path = chain.directory / "recipe.yaml"
    path.write_text(recipe.model_dump_json())
    return str(path)


def test_a_refresh_names_each_source_of_which_nothing_was_kept(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {("a", "a.jsonl"): [*GOOD, *WRONG[:1]], ("b", "b.jsonl"): WRONG}
    path = recipe_file(chain, chain.recipe(Delivery("s1", files)))
    for _ in range(2):  # the second has nothing to do and tells it again
        assert main(["refresh", path]) == 0
        (line,) = [each for each in capsys.readouterr().out.splitlines() if "warning" in each]
        assert line.startswith(f"warning: nothing of source b was kept: {LOST}")


def test_only_what_the_delivery_brought_is_told(chain: Chain) -> None:
    chain.deliver(Delivery("s1", {("a", "a.jsonl"): GOOD, ("b", "b.jsonl"): WRONG}))
    assert len(lost(chain)) == 1
    chain.deliver(Delivery("s2", {("a", "2.jsonl"): [{"id": "h", "text": "one more of these"}]}))
    assert lost(chain) == []
    more = [{"id": "i", "text": "and another"}]
    chain.deliver(Delivery("s3", {("a", "3.jsonl"): more, ("c", "c.jsonl"): []}))
    assert lost(chain) == []  # of c nothing came in


def test_the_first_of_files_that_were_read_together_is_told(chain: Chain) -> None:
    chain.deliver(Delivery("s1", {("a", "a.jsonl"): GOOD}))
    again = {("b", f"{n}.jsonl"): [GOOD[1] | {"id": str(9 - n)}] for n in range(3)}
    assert len(chain.deliver(Delivery("s2", again)).parts) == 2  # one of each delivery
    (line,) = lost(chain)
    assert "3 exact; the first by exact (0.jsonl, record 1): in favour of " in line


def test_a_rule_is_told_with_its_threshold_and_a_duplicate_with_its_witness(chain: Chain) -> None:
    chain.deliver(Delivery("s1", {("a", "a.jsonl"): GOOD}))
    chain.deliver(Delivery("s2", {("b", "b.jsonl"): [GOOD[1] | {"id": "other"}]}))
    (line,) = lost(chain)
    assert line.endswith("1 exact; the first by exact (b.jsonl, record 1): in favour of a/g1")
    strict = {"rules": ["gopher_quality"]}
    fields = chain.recipe(Delivery("t1", {("a", "a.jsonl"): GOOD})).model_dump()
    recipe = Recipe.model_validate(fields | {"store": f"{chain.store}-2", "clean": strict})
    with pytest.raises(
        ValueError,
        match=r"no document was kept: 3 gopher_min_words; the first by gopher_min_words "
        r"\(a.jsonl, record 1\): value 6, threshold 50$",
    ):
        refresh(recipe)


def test_where_nothing_is_kept_it_is_told_after_cleaning(
    chain: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    delivery = Delivery("s1", {("b", "b.jsonl"): WRONG})
    path = recipe_file(chain, chain.recipe(delivery))
    for _ in range(2):
        assert main(["refresh", path]) == 2
        assert f"error: no document was kept: {LOST}" in capsys.readouterr().err
    assert list_snapshots(chain.store) == []
    records = Path(snapshot_root(chain.store, "s1"), "records")
    assert [each.name for each in records.iterdir()] == ["clean"]


def test_files_without_records_are_told_as_such(chain: Chain) -> None:
    with pytest.raises(ValueError, match=r"no document was kept: there was no record to read$"):
        chain.deliver(Delivery("s1", {("a", "a.jsonl"): []}))
