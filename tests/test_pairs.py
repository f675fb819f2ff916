"""Candidates and verified pairs: each pair once, in one partition, from whichever parts."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from stage_helpers import Given, clean_parts, corpus_of, deduplicate, spread

from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline import index, pairs
from pipeline.clean import kept_mask
from pipeline.index import ROW_BITS, Corpus, KeySearch, column_values, find_buckets, rows_by_part
from pipeline.keys import SET_BAND
from pipeline.pairs import MEMBER_SCHEMA, PAIR_SCHEMA, group_partition, verify_share
from pipeline.parquet import read_rows, write_table
from pipeline.signatures import write_arrow
from pipeline.stretch import open_arrow

CONFIG = Dedup(bands=4, rows=1, ngram=2, threshold=0.5, partitions=4)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)


def documents_of(seed: int, count: int) -> list[Given]:
    rng = random.Random(seed)
    return [
        Given(f"{n % (count - 3)}", " ".join(rng.choices("abcdef", k=rng.randint(1, 6))))
        for n in range(count)
    ]


def places(root: Path, names: list[str]) -> dict[int, str]:
    """Return the text of every document by its number (part and row)."""
    found: dict[int, str] = {}
    for part, name in enumerate(names):
        texts = read_rows(f"{root}/clean/{name}.parquet", np.arange(10**4), "text")
        found |= {part << ROW_BITS | row: text for row, text in enumerate(texts)}
    return found


def grouped(
    root: Path, names: list[str], partitions: int
) -> tuple[set[int], Counter[tuple[int, int]]]:
    """Run every group task; return all members, and every pair with its number of partitions."""
    members: set[int] = set()
    found: Counter[tuple[int, int]] = Counter()
    for number in range(partitions):
        name, share = f"g{number}-{partitions}", (number, partitions)
        output = group_partition(Tree(str(root)), name, corpus_of(names), share)
        opened = (open_arrow(f"{root}/{path}") for path in output.paths)
        of_members, of_pairs, of_rights, of_large = opened
        assert not len(of_large)
        assert (of_members.schema, of_pairs.schema) == (MEMBER_SCHEMA, PAIR_SCHEMA)
        assert output.counts == {
            "pairs": len(of_pairs), "members": len(of_members),
            "large_buckets": 0, "large_members": 0,
        }  # fmt: skip
        members |= set(of_members["document"].to_pylist())
        pair_list = [(row["left"], row["right"]) for row in of_pairs.to_pylist()]
        assert pair_list == sorted(set(pair_list))
        assert of_rights == of_pairs.sort_by([("right", "ascending"), ("left", "ascending")])
        found.update(pair_list)
    return members, found


def test_groups_by_brute_force(tmp_path: Path) -> None:
    """Members share a set, a text or an id; pairs share a band and stand for their sets."""
    documents = documents_of(1, 40)
    names = clean_parts(Tree(str(tmp_path)), spread(documents, [11, 11, 25]), CONFIG)
    values: dict[tuple[str, object], set[int]] = {}
    sets: dict[int, bytes | None] = {}
    for part, name in enumerate(names):
        index = open_arrow(f"{tmp_path}/index/{name}.documents.arrow").to_pylist()
        for row, fields in enumerate(index):
            document = part << ROW_BITS | row
            sets[document] = fields["set_hash"]
            for kind in ("id", "text_hash", "set_hash"):
                if fields[kind] is not None:
                    values.setdefault((kind, fields[kind]), set()).add(document)
        for key in open_arrow(f"{tmp_path}/index/{name}.keys.arrow").to_pylist():
            if key["band"] < CONFIG.bands:
                document = part << ROW_BITS | key["row"]
                values.setdefault((f"band {key['band']}", key["key"]), set()).add(document)
    expected_members: set[int] = set()
    expected_pairs: set[tuple[int, int]] = set()
    for (kind, _), bucket in values.items():
        if kind.startswith("band"):
            least = {sets[each]: each for each in sorted(bucket, reverse=True)}
            standing = sorted(least.values())
            expected_pairs |= {(a, b) for a in standing for b in standing if a < b}
        elif len(bucket) > 1:
            expected_members |= bucket
    for partitions in (1, 2, 4, 16):
        members, found = grouped(tmp_path, names, partitions)
        assert members == expected_members
        assert set(found) == expected_pairs
    assert len(expected_pairs) > 20
    assert len(expected_members) > 5


def test_every_pair_is_verified_by_one_task(tmp_path: Path) -> None:
    names = clean_parts(Tree(str(tmp_path)), spread(documents_of(2, 50), [20]), CONFIG)
    groups = [f"g{n}-4" for n in range(4)]
    _, found = grouped(tmp_path, names, 4)
    assert max(found.values()) > 1  # some pairs share bands of several partitions
    texts = places(tmp_path, names)
    compared = 0
    verified: list[tuple[int, int]] = []
    tree, corpus = Tree(str(tmp_path)), corpus_of(names)
    for number in range(3):  # as many tasks as one likes
        share = (number, 3, groups)
        output = verify_share(tree, f"v{number}", CONFIG, corpus, share)
        compared += output.counts["compared"]
        rows = open_arrow(f"{tmp_path}/{output.paths[0]}").to_pylist()
        assert output.counts["verified"] == len(rows)
        for row in rows:
            one, other = (bigrams(texts[row[side]]) for side in ("left", "right"))
            assert (row["shared"], row["total"]) == (len(one & other), len(one | other))
            verified.append((row["left"], row["right"]))
    assert compared == len(found)
    similar = []
    for pair in found:
        one, other = (bigrams(texts[document]) for document in pair)
        if 2 * len(one & other) >= len(one | other):
            similar.append(pair)
    assert sorted(verified) == sorted(similar)
    assert 0 < len(similar) < len(found)


def bigrams(text: str) -> set[tuple[str, str]]:
    words = text.split()
    return set(pairwise(words))


def test_verify_tasks_share_the_pairs_among_them(tmp_path: Path) -> None:
    """Rows of different kilo-blocks go to different tasks, each pair to exactly one."""
    left = np.arange(0, 10_000, 7, dtype=np.uint64)
    for group in ("one", "two"):
        table = pa.table([left, left + np.uint64(1)], schema=PAIR_SCHEMA)
        write_arrow(f"{tmp_path}/work/group/{group}.pairs.arrow", table)
    tree = Tree(str(tmp_path))
    shares = [pairs._pairs_of(tree, n, 4, ["one", "two"])[0].tolist() for n in range(4)]
    assert sorted(each for share in shares for each in share) == left.tolist()
    assert all(len(share) > 200 for share in shares)


def test_ranges_of_the_key_space_have_no_gap_and_no_overlap(tmp_path: Path) -> None:
    """Keys at the very ends of the ranges, and equal keys of other bands, stay apart."""
    edges = [0, 1, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
    schema = pa.schema([("key", pa.uint64()), ("band", pa.uint8()), ("row", pa.uint32())])
    rows = [(key, band, row) for key in edges for band, row in ((3, 0), (3, 1), (5, 1))]
    columns = [list(column) for column in zip(*rows, strict=True)]
    write_arrow(f"{tmp_path}/index/p.keys.arrow", pa.table(columns, schema=schema))
    search = KeySearch(Tree(str(tmp_path)), corpus_of(["p"]))
    for partitions in (1, 2, 4, 8):
        ranges = [
            search.read(n * 2**64 // partitions, (n + 1) * 2**64 // partitions)
            for n in range(partitions)
        ]
        assert [int(key) for each in ranges for key in each.key] == columns[0]
        buckets = [find_buckets(each, np.uint64(0)) for each in ranges]
        sizes = [np.unique(each.number, return_counts=True)[1].tolist() for each in buckets]
        assert [size for each in sizes for size in each] == [2] * len(edges)
        assert {int(band) for each in buckets for band in each.band} == {3}


def test_settled_parts_take_part_with_their_survivors(tmp_path: Path) -> None:
    """Of them only keys that a new document has are read, and no key of a dropped document."""
    tree = Tree(str(tmp_path))
    names = clean_parts(tree, spread(documents_of(3, 60), [20, 40]), CONFIG)
    assert deduplicate(tree, names[:2], CONFIG)
    corpus = Corpus(corpus_of(names).parts, 2)
    entries = {
        (row["key"], row["band"], part << ROW_BITS | row["row"])
        for part, name in enumerate(names)
        for row in open_arrow(tree.find(f"index/{name}.keys.arrow")).to_pylist()
    }
    kept = {
        part << ROW_BITS | int(row)
        for part, name in enumerate(names[:2])
        for row in np.flatnonzero(kept_mask(tree, name, 20))
    }
    new = {entry for entry in entries if entry[2] >= corpus.first_new}
    wanted = {key for key, _, _ in new}
    shared = {entry for entry in entries - new if entry[0] in wanted}
    expected = sorted(new | {entry for entry in shared if entry[2] in kept})
    found = KeySearch(tree, corpus).read(0, 2**64)
    assert list(zip(*(column.tolist() for column in found), strict=True)) == expected
    assert len(new) < len(expected) < len(new | shared) < len(entries)
    buckets = find_buckets(found, corpus.first_new)
    for number in np.unique(buckets.number):
        members = buckets.document[buckets.number == number]
        assert len(members) > 1
        assert members.max() >= corpus.first_new
    minhash = buckets.where(buckets.band < SET_BAND)
    (candidates,) = pairs.find_candidates(tree, corpus, minhash).pairs()
    assert len(candidates) > 10
    assert (candidates[:, 1] >= corpus.first_new).all()


def test_rounds_are_bounded_and_have_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Tree(str(tmp_path))
    names = clean_parts(tree, spread(documents_of(4, 40), [15]), CONFIG)
    search = KeySearch(tree, corpus_of(names))
    whole = search.read(0, 2**64)
    assert list(search.rounds(0, 2**64)) == [(0, 2**64)]
    monkeypatch.setattr(index, "_KEYS_PER_ROUND", 9)
    rounds = list(search.rounds(0, 2**64))
    assert (rounds[0][0], rounds[-1][1]) == (0, 2**64)
    assert all(one[1] == other[0] for one, other in pairwise(rounds))
    read = [search.read(*each) for each in rounds]
    assert all(len(keys.key) <= 9 or high == low + 1
               for keys, (low, high) in zip(read, rounds, strict=True))  # fmt: skip
    for field in ("key", "band", "document"):
        assert (np.concatenate([getattr(keys, field) for keys in read])
                == getattr(whole, field)).all()  # fmt: skip


def test_rows_by_part() -> None:
    documents = np.array([2 << 32 | 5, 0 << 32 | 7, 2 << 32 | 1, 2 << 32 | 5], np.uint64)
    found = [(part, rows.tolist()) for part, rows in rows_by_part(documents)]
    assert found == [(0, [7]), (2, [1, 5])]
    assert list(rows_by_part(documents[:0])) == []


def test_rows_are_read_across_row_groups(tmp_path: Path) -> None:
    path = str(tmp_path / "x.parquet")
    write_table(path, pa.table({"n": list(range(2500)), "other": [0] * 2500}))
    for rows in ([], [0], [1023, 1024, 2047, 2048, 2499], list(range(2500))):
        assert list(read_rows(path, np.array(rows, np.int64), "n")) == rows


def test_a_damaged_file_of_ours_is_named(tmp_path: Path) -> None:
    path = tmp_path / "index" / "p.keys.arrow"
    write_arrow(str(path), pa.table({"a": list(range(1000))}))
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[: len(whole) // 2], b"x" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"p\.keys\.arrow is damaged .*refresh again"):
            open_arrow(str(path))
    with pytest.raises(ValueError, match=r"nothing\.arrow is damaged"):
        open_arrow(str(tmp_path / "nothing.arrow"))


def test_columns_of_empty_tables() -> None:
    values = column_values(PAIR_SCHEMA.empty_table(), "left")
    assert (values.dtype, len(values)) == (np.dtype(np.uint64), 0)
    table = pa.concat_tables([pa.table({"a": [1, 2]}), pa.table({"a": [3]})])
    assert column_values(table, "a").tolist() == [1, 2, 3]
