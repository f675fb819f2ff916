"""What two snapshots differ in, and how many records a document stands for, over random chains."""

import json
import random
from collections import Counter
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain_helpers import Chain, prepare, random_config, run_chain, tables

from corpus.snapshots import Snapshot
from pipeline import clusters
from pipeline.__main__ import main
from pipeline.clusters import cluster_sizes, measure_sizes
from pipeline.diff import count_changes, find_changes, to_json
from pipeline.explain import open_store

Place = tuple[str, str, int]


@pytest.fixture(scope="module", params=range(8))
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Chain, list[Snapshot]]:
    """A chain of refreshes and take-downs, and its snapshots."""
    rng = random.Random(f"differences-{request.param}")
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch)
        chain = Chain(tmp_path_factory.mktemp("chain"), random_config(rng))
        return chain, run_chain(rng, chain, takedowns=True)


def place_of(row: dict[str, object], prefix: str = "") -> Place:
    snapshot, file, position = (row[prefix + key] for key in ("snapshot", "file", "position"))
    assert isinstance(snapshot, str)
    assert isinstance(file, str)
    assert isinstance(position, int)
    return snapshot, file, position


def kept(chain: Chain, snapshot: Snapshot) -> set[tuple[str, Place]]:
    """The documents of a snapshot, read whole: sources may name their files alike."""
    documents, gone = (
        {(row["id"], place_of(row)) for row in tables(chain.store, snapshot, kind)}
        for kind in ("clean", "duplicates")
    )
    return documents - gone


def test_changes_are_what_the_two_hold(made: tuple[Chain, list[Snapshot]]) -> None:
    chain, snapshots = made
    for pair in combinations(snapshots, 2):
        earlier, later = (open_store(chain.store, each.label) for each in pair)
        found = list(find_changes(earlier, later))
        old, new = (kept(chain, each) for each in pair)
        assert Counter((c.id, c.place) for c in found if c.came) == Counter(new - old)
        assert Counter((c.id, c.place) for c in found if not c.came) == Counter(old - new)

        counted, unread = count_changes(earlier, later)
        assert unread == 0
        assert +counted.came == Counter((c.source, c.why) for c in found if c.came)
        assert +counted.went == Counter((c.source, c.why) for c in found if not c.came)
        balance = pair[1].counts.documents_in - pair[0].counts.documents_in
        delivered = sum(n for (_, why), n in counted.came.items() if why == "delivered")
        assert delivered + counted.refused.total() == balance
        said = json.loads("".join(to_json(earlier, later)))
        assert [tuple(each["place"]) for each in said["changes"]] == [c.place for c in found]
        assert sum(each["records"] for each in said["refused"]) == counted.refused.total()


def test_every_change_is_listed_where_asked(
    made: tuple[Chain, list[Snapshot]], capsys: pytest.CaptureFixture[str]
) -> None:
    chain, snapshots = made
    labels = snapshots[0].label, snapshots[-1].label
    earlier, later = (open_store(chain.store, label) for label in labels)
    found = list(find_changes(earlier, later))
    assert main(["diff", chain.store, *labels, "--list", "--workers", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[:2] for line in lines if line.startswith(("+ ", "- "))]
    assert listed == [["+" if change.came else "-", change.id] for change in found]


@pytest.mark.parametrize("files", [1, 3])
def test_clusters_are_those_of_the_duplicates(
    made: tuple[Chain, list[Snapshot]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    """In memory, and by way of scratch files of some duplicates each, read part by part."""
    chain, snapshots = made
    for number, snapshot in enumerate(snapshots):
        rows = tables(chain.store, snapshot, "duplicates")
        expected = Counter((row["witness_id"], *place_of(row, "witness_")) for row in rows)
        monkeypatch.setattr(clusters, "_ROWS", max(1, len(rows) // files))
        monkeypatch.setattr(clusters, "_PARTS_AT_A_TIME", 1)
        store = open_store(chain.store, snapshot.label)
        listed = [tuple(row.values()) for each in cluster_sizes(store) for row in each.to_pylist()]
        assert len(listed) == len(expected)
        assert {row[:4]: row[4] - 1 for row in listed} == expected

        path = str(tmp_path / f"{number}.parquet")
        said = list(clusters.clusters(store, path))
        assert sorted(tuple(row.values()) for row in pq.read_table(path).to_pylist()) == sorted(
            listed
        )
        alone = snapshot.counts.documents_kept - len(expected)
        assert said[0] == f"{alone:,} documents stand for themselves alone"


def test_sizes_fall_into_bins_and_the_largest_are_named() -> None:
    records = [[2, 3, 9, 4], [2, 9, 8]]
    names = [["b", "c", "d", "a"], ["e", "a2", "f"]]
    given = [
        pa.table({"id": ids, "snapshot": ids, "file": ids, "position": sizes, "records": sizes})
        for ids, sizes in zip(names, records, strict=True)
    ]
    found = measure_sizes(given)
    assert found.clusters == 7
    assert found.bins == {2: 3, 4: 1, 8: 3}
    assert [(row[0], row[4]) for row in found.largest] == [
        ("a2", 9), ("d", 9), ("f", 8), ("a", 4), ("c", 3), ("b", 2), ("e", 2),
    ]  # fmt: skip
    assert measure_sizes([]) == (0, {}, [])
