"""Tokens laid anew: the same shards from fewer openings, whatever was gathered before a kill."""

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from chain_helpers import (
    Chain,
    KilledError,
    compare_snapshots,
    prepare,
    random_config,
    random_deliveries,
)
from stage_helpers import run_stages_here
from test_pack import hashed_documents, write_tokens

from corpus.files import list_names
from corpus.membership import HASH_SPACE, tokens_path
from corpus.recipe import Pack
from corpus.snapshots import Tree
from pipeline import gather, plans
from pipeline.gather import pack_shards
from pipeline.jobs import Stages, Task, run_task
from pipeline.plans import TokenFiles, plan_shards
from pipeline.refresh import refresh
from pipeline.stretch import Stretched, open_arrow

TOP = HASH_SPACE - 1
CONFIG = Pack(sequence_length=16, shard_size_bytes=400, validation_fraction=0.1)
MADE_WITH = CONFIG, ("f" * 64, 300)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run_stages_here(monkeypatch)


@pytest.mark.parametrize("ranges", [1, 2, 3, 7, 64])
def test_files_of_a_range_are_those_that_may_hold_it(ranges: int) -> None:
    rng = np.random.default_rng(ranges)
    paths = tuple(f"{run}-{number}" for run in range(3) for number in range(ranges))
    files = TokenFiles(paths, ranges)
    bounds = list(pairwise(plans.cut_hashes(ranges)))
    assert (bounds[0][0], bounds[-1][1]) == (0, HASH_SPACE)
    for low, high in np.sort(rng.integers(0, TOP, (50, 2), np.uint64), axis=1).tolist():
        inside = [n for n, (first, stop) in enumerate(bounds) if first < high and low < stop]
        found = files.within(low, high)
        assert found == [f"{run}-{n}" for run in range(3) for n in inside]
        for hashed in (low, high - 1):
            (home,) = (n for n, (first, stop) in enumerate(bounds) if first <= hashed < stop)
            assert f"1-{home}" in found
    assert files.within(0, HASH_SPACE) == list(paths)
    assert files.within(7, 7) in ([], [f"{run}-0" for run in range(3)])


def write_parts(root: Path) -> dict[tuple[str, str], list[str]]:
    """Write two sources: many parts, among them empty ones and one hash in two, and one part."""
    documents = [*hashed_documents(200), (0, "s/first", [1]), (TOP, "s/last", [2])]
    documents += [(2**63, "s/b", [3, 1]), (2**63, "s/a", [1, 2])]
    parts = {f"s-{n}-0": documents[n::11] for n in range(11)} | {"s-e-0": []}
    write_tokens(root, parts | {"t-0-0": hashed_documents(3)})
    return {("first", "s"): sorted(parts), ("first", "t"): ["t-0-0"]}


def pack(root: Path, parts: dict[tuple[str, str], list[str]]) -> dict[str, bytes]:
    """Plan and pack all shards; return their bytes by path."""
    stages = Stages(Tree(str(root)), 1)
    planned = plan_shards(stages.tree, parts, CONFIG, 2)
    records = pack_shards(stages, planned, parts, MADE_WITH, "i")
    assert list(records) == [f"{plan.name}-i" for plan in planned]
    return {plan.path: (root / plan.path).read_bytes() for plan in planned}


def count_openings(patch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that every tokens file comes to as it is opened."""
    opened: list[str] = []

    class Counted(Stretched):
        def __init__(self, path: str) -> None:
            opened.append(path)
            super().__init__(path)

    patch.setattr(plans, "Stretched", Counted)
    return opened


def test_the_same_shards_from_fewer_openings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = count_openings(monkeypatch)
    parts = write_parts(tmp_path / "one")
    write_parts(tmp_path / "other")
    expected = pack(tmp_path / "one", parts)
    assert not (tmp_path / "one" / "work").exists()
    shards = sum("/s/" in path for path in expected)
    assert shards > 16
    planning = 12 + 1
    assert len(opened) == planning + 12 * shards + len(expected) - shards
    opened.clear()
    monkeypatch.setattr(gather, "LEAST_SHARDS", 16)
    assert pack(tmp_path / "other", parts) == expected
    side = 5 if shards > 16 else 4
    assert side**2 >= shards > (side - 1) ** 2
    runs = -(-12 // side)
    # Every part once a range; a shard one file of each run of parts, or two at a range's end.
    fewest = planning + 12 * side + runs * shards
    assert fewest <= len(opened) <= fewest + runs * (side + 1) + len(expected) - shards
    assert not [path for path in opened if "work/gather" in path and "+t-" in path]


def test_gathered_files_are_as_those_of_parts(tmp_path: Path) -> None:
    parts = write_parts(tmp_path)["first", "s"]
    tree = Tree(str(tmp_path))
    paths = [tokens_path(part) for part in parts]
    output = gather.gather_tokens(tree, "g", paths, 4, 300)
    assert output.paths == tuple(f"work/gather/g/{n:05d}.arrow" for n in range(4))
    assert output.counts == {"documents": 204}
    expected = {row["id"]: row for path in paths for row in open_arrow(tree.find(path)).to_pylist()}
    found = [open_arrow(tree.find(path)) for path in output.paths]
    assert {table.schema for table in found} == {open_arrow(tree.find(paths[0])).schema}
    rows = [row for table in found for row in table.to_pylist()]
    assert rows == sorted(expected.values(), key=lambda row: (row["hash"], row["id"]))
    for table, (low, high) in zip(found, pairwise(plans.cut_hashes(4)), strict=True):
        assert all(low <= hashed < high for hashed in table["hash"].to_pylist())


def test_what_was_gathered_before_a_kill_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last shards alone would not be worth it."""
    parts = write_parts(tmp_path / "one")
    write_parts(tmp_path / "other")
    expected = pack(tmp_path / "one", parts)
    monkeypatch.setattr(gather, "LEAST_SHARDS", 16)
    done: list[str] = []

    def run_some(stages: Stages, stage: str, missing: list[Task]) -> None:
        for task in missing:
            if stage == "pack" and len(done) == 12:
                raise KilledError
            run_task(stages.tree, stage, task)
            done.extend([task.name] * (stage == "pack"))

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "_run_missing", run_some)
        with pytest.raises(KilledError):
            pack(tmp_path / "other", parts)
    gathered = set((tmp_path / "other" / "records" / "gather").iterdir())
    opened = count_openings(monkeypatch)
    assert pack(tmp_path / "other", parts) == expected
    assert set((tmp_path / "other" / "records" / "gather").iterdir()) == gathered
    assert sum("/tokens/s-" in path for path in opened) == 12  # by the plan alone
    opened.clear()
    assert pack(tmp_path / "other", parts) == expected
    assert not [path for path in opened if "work" in path]


def test_a_refresh_that_gathers_equals_a_rebuild_that_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    rng = random.Random(3)
    chain = Chain(tmp_path, random_config(rng))
    recipe = chain.recipe(random_deliveries(rng)[0])
    with monkeypatch.context() as patch:
        patch.setattr(gather, "LEAST_SHARDS", 1)
        outcome = refresh(recipe)
    assert "gather" in outcome.stage_seconds
    names = list_names(f"{chain.store}/snapshots/{recipe.snapshot}")
    assert not [name for name in names if "gather" in name]
    assert not [each for each in outcome.snapshot.files if "gather" in each.path]
    compare_snapshots((chain.store, f"{tmp_path}/rebuilt"), (outcome.snapshot, chain.rebuild()))
