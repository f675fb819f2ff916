from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pretrain_helpers import SHARDS, rows_of, write_snapshot

from corpus.files import size_bytes, writing
from corpus.shards import Shard, shard_schema, write_blocks
from corpus.snapshots import Snapshot, snapshot_root
from pipeline.formats import Documents, lay_documents, write_rows
from pretrain.dataset import (
    Rows,
    Shares,
    derive_keys,
    mix64,
    open_rows,
    permute,
    verify_shards,
)


def test_mix64_is_splitmix64() -> None:
    # The first outputs of splitmix64 seeded with 0 (Vigna's reference code).
    counters = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert mix64(counters).tolist() == expected


def test_keys_differ_in_every_part() -> None:
    numbers = np.arange(1000)
    keys = [derive_keys(seed, domain, numbers) for seed in (0, 1) for domain in (1, 2)]
    assert len(np.unique(np.concatenate(keys))) == 4000


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 65536, 100_003])
def test_permute_is_a_bijection(size: int) -> None:
    permuted = permute(np.arange(size), size, key=12345)
    assert np.array_equal(np.sort(permuted), np.arange(size))


def test_permute_gives_the_same_rows_in_pieces() -> None:
    whole = permute(np.arange(1000), 1000, key=3)
    pieces = [permute(np.array([index]), 1000, key=3)[0] for index in range(0, 1000, 37)]
    assert whole[::37].tolist() == pieces


def test_permute_looks_random() -> None:
    size = 10_000
    permuted = permute(np.arange(size), size, key=99)
    # For a random permutation the rank correlation has standard deviation 1 / sqrt(size - 1)
    # and the number of fixed points is Poisson(1).
    assert abs(np.corrcoef(np.arange(size), permuted)[0, 1]) < 5 / np.sqrt(size)
    assert (permuted == np.arange(size)).sum() < 12
    neighbours = np.abs(np.diff(permuted)) == 1
    assert neighbours.sum() < 20


def test_the_order_is_stable() -> None:
    assert rows_of(np.arange(8), 100, seed=7).tolist() == [32, 49, 64, 73, 38, 71, 30, 66]
    assert rows_of(np.arange(100, 108), 100, seed=7).tolist() == [14, 11, 45, 83, 48, 15, 37, 2]


@settings(max_examples=60)
@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 40),
    world=st.integers(1, 5),
    micro=st.integers(1, 9),
)
def test_every_sequence_once_a_pass_for_any_world(
    rows: int, batch: int, world: int, micro: int
) -> None:
    shares = Shares(batch, world, micro)
    steps = -(-2 * rows // batch)
    numbers = np.concatenate(
        [
            step * batch + offsets[offsets >= 0]
            for step in range(steps)
            for rank in range(world)
            for offsets in [shares.offsets(rank).ravel()]
        ]
    )
    assert np.array_equal(numbers, np.arange(steps * batch))
    for one in range(2):
        taken = rows_of(numbers[one * rows : (one + 1) * rows], rows, seed=5)
        assert np.array_equal(np.sort(taken), np.arange(rows))


def test_passes_have_different_orders() -> None:
    first, second = rows_of(np.arange(200), 100, seed=0).reshape(2, 100)
    assert (first == second).sum() < 10
    assert (rows_of(np.arange(100), 100, seed=1) == first).sum() < 10


def test_shares_by_hand() -> None:
    shares = Shares(batch_sequences=10, world_size=4, max_microbatch=2)
    assert [shares.offsets(rank).tolist() for rank in range(4)] == [
        [[0, 1], [2, -1]],
        [[3, 4], [5, -1]],
        [[6, 7], [8, -1]],
        [[9, -1], [-1, -1]],
    ]


def test_a_rank_beyond_the_batch_has_surplus_only() -> None:
    assert Shares(2, 3, 8).offsets(2).tolist() == [[-1]]


def test_microbatches_are_as_small_as_their_number_allows() -> None:
    # 33 sequences at most 32 at a time: two of 17, not two of 32.
    assert Shares(33, 1, 32).offsets(0).shape == (2, 17)


def test_rows_are_the_shards_one_after_another(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path)
    data = open_rows(str(tmp_path), snapshot, "train")
    entries = [entry for entry in snapshot.shards if entry.split == "train"]
    assert data.count == 41 + 30 + 26
    picked = np.array([0, 40, 41, 70, 71, 96])
    assert [data.locate(int(row)) for row in picked] == [
        (entries[0], 0), (entries[0], 40), (entries[1], 0), (entries[1], 29), (entries[2], 0),
        (entries[2], 25),
    ]  # fmt: skip
    tokens, lengths = data.gather(picked)
    for at, row in enumerate(picked):
        entry, local = data.locate(int(row))
        shard = Shard(f"{snapshot_root(str(tmp_path), 'one')}/{entry.path}")
        assert np.array_equal(tokens[at], shard.token_ids([local])[0])
        assert lengths[at] == shard.lengths[local]


def test_an_empty_shard_does_not_show(tmp_path: Path) -> None:
    """A delivery without a document of a source has one: first, in the middle and last."""
    filled = (("books", "train", 5), ("wiki", "train", 4))
    empty = [("books", "train", 0)] * 3
    shards = (empty[0], filled[0], empty[1], filled[1], empty[2])
    snapshot = write_snapshot(tmp_path, shards=shards)
    data = open_rows(str(tmp_path), snapshot, "train")
    assert data.count == 9
    entries = [entry for entry in snapshot.shards if entry.rows]
    places = [(entries[0], row) for row in range(5)] + [(entries[1], row) for row in range(4)]
    assert [data.locate(row) for row in range(9)] == places
    tokens, lengths = data.gather(np.arange(9))
    for at, (entry, local) in enumerate(places):
        shard = Shard(snapshot.tree(str(tmp_path)).find(entry.path))
        assert np.array_equal(tokens[at], shard.token_ids([local])[0])
        assert lengths[at] == shard.lengths[local]
    verify_shards(str(tmp_path), snapshot, rank=0, world_size=1)


def test_a_shard_is_read_from_the_snapshot_it_lies_in(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path)
    before = open_rows(str(tmp_path), snapshot, "train").gather(np.arange(97))
    first, *others = snapshot.shards
    target = tmp_path / "snapshots" / "zero" / first.path
    target.parent.mkdir(parents=True)
    Path(snapshot.tree(str(tmp_path)).find(first.path)).rename(target)
    moved = first.model_copy(update={"home": "zero"})
    snapshot = snapshot.model_copy(update={"shards": (moved, *others)})
    after = open_rows(str(tmp_path), snapshot, "train").gather(np.arange(97))
    assert all(np.array_equal(*each) for each in zip(before, after, strict=True))
    verify_shards(str(tmp_path), snapshot, rank=0, world_size=1)


def test_a_split_without_rows_is_empty(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, shards=SHARDS[:1])
    assert open_rows(str(tmp_path), snapshot, "validation").count == 0


Damaged = tuple[Path, Snapshot, Path]


@pytest.fixture
def first_shard(tmp_path: Path) -> Damaged:
    snapshot = write_snapshot(tmp_path)
    root = snapshot_root(str(tmp_path), snapshot.label)
    return tmp_path, snapshot, tmp_path / f"{root}/{snapshot.shards[0].path}"


def test_a_truncated_shard_is_named(first_shard: Damaged) -> None:
    store, snapshot, path = first_shard
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    message = (
        rf"books/train-00000.arrow holds {size - 100:,} bytes, its manifest says {size:,}.*audit"
    )
    with pytest.raises(ValueError, match=message):
        open_rows(str(store), snapshot, "train")


def test_a_flipped_byte_in_a_shard_is_found(first_shard: Damaged) -> None:
    store, snapshot, path = first_shard
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"train-00000.arrow has checksum .* its manifest says"):
        verify_shards(str(store), snapshot, rank=0, world_size=1)


def test_each_shard_is_verified_by_one_rank(first_shard: Damaged) -> None:
    store, snapshot, path = first_shard
    path.write_bytes(b"")
    verify_shards(str(store), snapshot, rank=1, world_size=2)
    with pytest.raises(ValueError, match=r"train-00000\.arrow"):
        verify_shards(str(store), snapshot, rank=0, world_size=2)


def test_a_missing_shard_is_named(first_shard: Damaged) -> None:
    store, snapshot, path = first_shard
    path.unlink()
    with pytest.raises(ValueError, match=r"train-00000.arrow is missing"):
        open_rows(str(store), snapshot, "train")


def test_a_shard_that_is_another_one_is_named(first_shard: Damaged) -> None:
    store, snapshot, _ = first_shard
    entry = snapshot.shards[0].model_copy(update={"rows": 40})
    changed = snapshot.model_copy(update={"shards": (entry,)})
    with pytest.raises(ValueError, match=r"holds \(rows, .*\) \(41, .*manifest says \(40, "):
        open_rows(str(store), changed, "train")


@pytest.mark.parametrize(
    "packing",
    ["full-sentences", "doc-sentences", "stream", "best-fit", "segment-pair", "sentence-pair"],
)
def test_shards_of_every_format_open(tmp_path: Path, packing: str) -> None:
    """Rows come as they lie in the shard, whatever other columns it has."""
    snapshot = write_snapshot(tmp_path, shards=(("books", "train", 40),))
    size, sentences = snapshot.sequence_length, np.arange(0, 2001, 5)
    documents = Documents(
        (np.arange(2000) % 200 + 4).astype(np.uint16), np.ones(2000, np.bool_), sentences,
        np.arange(0, 401, 8),
    )  # fmt: skip
    layout = lay_documents(documents, packing, size)
    path = snapshot.tree(str(tmp_path)).find(snapshot.shards[0].path)
    with writing(path) as stream:
        schema = shard_schema(size, np.uint16, snapshot.tokenizer, packing)
        write_blocks(stream, write_rows(documents, layout, packing, size), schema)
    entry = snapshot.shards[0].model_copy(
        update={"rows": layout.row_count, "size_bytes": size_bytes(path)}
    )
    rows = Rows(snapshot.tree(str(tmp_path)), [entry], snapshot)
    tokens, lengths = rows.gather(np.arange(layout.row_count)[::-1])
    shard = Shard(path)
    assert (tokens[::-1] == shard.token_ids(range(shard.rows))).all()
    assert (lengths[::-1] == shard.lengths).all()
    assert (tokens >= 4).sum() == 2000
