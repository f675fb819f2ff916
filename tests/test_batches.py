import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed_helpers import FORMATS, write_packed
from pretrain_helpers import SHARDS, make_recipe, write_snapshot

from corpus.shards import PAIRED, Shard
from corpus.snapshots import snapshot_root
from pretrain.batches import Stream, hash_batches, open_stream
from pretrain.config import data_plan
from pretrain.dataset import Shares
from pretrain.masking import IGNORED


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    store = tmp_path_factory.mktemp("store")
    snapshot = write_snapshot(store)
    plan = data_plan(make_recipe(store, store, batch_sequences=10).pretrain, snapshot)
    return open_stream(str(store), snapshot, plan)


def global_hash(stream: Stream, step: int, world: int, micro: int) -> int:
    shares = Shares(10, world, micro)
    ranks = [hash_batches(stream.train_batches(shares, step, rank)) for rank in range(world)]
    return sum(ranks) % 2**256


@pytest.mark.parametrize(("world", "micro"), [(1, 3), (2, 4), (3, 2), (4, 10), (7, 1), (12, 5)])
def test_the_global_batch_does_not_depend_on_the_layout(
    stream: Stream, world: int, micro: int
) -> None:
    for step in (0, 9, 1000):  # of 9.7 steps a pass: step 9 crosses into the second
        assert global_hash(stream, step, world, micro) == global_hash(stream, step, 1, 10)


def test_the_hash_is_stable(stream: Stream) -> None:
    assert (
        f"{global_hash(stream, 0, 1, 10):064x}"
        == "4168d73c185c57bac61d455f1b738e8bbbddbafc4b175f50acb93e4b6c7f8aa1"
    )


def test_the_hash_by_hand(stream: Stream) -> None:
    (batch,) = stream.train_batches(Shares(10, 10, 1), step=2, rank=3)
    data = np.concatenate([batch.numbers, batch.rows, batch.slots[0], batch.labels[0]])
    expected = hashlib.sha256(data.astype("<i8").tobytes())
    expected.update(batch.inputs[0].numpy().astype("<i4").tobytes())
    assert batch.numbers.tolist() == [23]
    assert hash_batches([batch]) == int(expected.hexdigest(), 16)


@pytest.mark.parametrize("name", ["inputs", "slots", "labels"])
def test_the_hash_sees_every_tensor(stream: Stream, name: str) -> None:
    (batch,) = stream.train_batches(Shares(10, 1, 10), step=0, rank=0)
    before = hash_batches([batch])
    getattr(batch, name)[4, 1] += 1
    assert hash_batches([batch]) != before


def test_surplus_rows_carry_no_labels_and_no_tokens(stream: Stream) -> None:
    shares = Shares(10, 4, 2)
    batches = [batch for rank in range(4) for batch in stream.train_batches(shares, 0, rank)]
    assert {tuple(batch.inputs.shape) for batch in batches} == {(2, 64)}
    surplus = torch.cat([torch.from_numpy(batch.numbers < 0) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    lengths = torch.cat([batch.lengths for batch in batches])
    assert surplus.sum() == 6
    assert (labels[surplus] == IGNORED).all()
    assert (lengths[surplus] == 1).all()
    assert sum(batch.label_count for batch in batches) == int((labels != IGNORED).sum())
    assert sum(batch.token_count for batch in batches) == int(lengths[~surplus].sum())


def test_validation_is_spread_over_all_rows_and_always_the_same(stream: Stream) -> None:
    shares = Shares(8, 1, 3)
    batches = list(stream.validation_batches(shares, 0))
    rows = np.concatenate([batch.rows[batch.rows >= 0] for batch in batches])
    assert rows.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]  # of 17, both sources
    assert {stream.validation.locate(int(row))[0].source for row in rows} == {"books", "wiki"}
    parts = [list(stream.validation_batches(Shares(8, 3, 2), rank)) for rank in range(3)]
    assert sum(map(hash_batches, parts)) % 2**256 == hash_batches(batches)


def test_a_snapshot_without_training_rows_is_refused(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path, shards=SHARDS[3:])
    plan = data_plan(make_recipe(tmp_path, tmp_path).pretrain, snapshot)
    with pytest.raises(ValueError, match="has no training sequences"):
        open_stream(str(tmp_path), snapshot, plan)


def test_a_step_is_divided_as_its_batch_is_large(tmp_path: Path) -> None:
    snapshot = write_snapshot(tmp_path)
    ramp = {"from_sequences": 1, "batches": 3}
    recipe = make_recipe(tmp_path, tmp_path, batch_sequences=10, batch_ramp=ramp)
    plan = data_plan(recipe.pretrain, snapshot)
    stream = open_stream(str(tmp_path), snapshot, plan)
    sizes = [1, 4, 7, 10, 10]
    seen = []
    for step, size in enumerate(sizes):
        shares = [stream.shares_at(step, world, micro) for world, micro in ((1, 3), (2, 4), (3, 8))]
        hashes = set()
        for one in shares:
            assert one.batch_sequences == size
            ranks = [stream.train_batches(one, step, rank) for rank in range(one.world_size)]
            hashes.add(sum(map(hash_batches, ranks)) % 2**256)
        assert len(hashes) == 1
        seen += [each for batch in stream.train_batches(shares[0], step, 0) for each in batch.rows]
        # The same shape at every step, for a compiled model.
        assert [one.microbatch_sequences for one in shares] == [3, 3, 4]
    taken = [row for row in seen if row >= 0]
    assert len(taken) == sum(sizes) == len(set(taken))  # of 97 rows none comes twice


def test_shares_of_another_step_are_refused(stream: Stream) -> None:
    with pytest.raises(ValueError, match="step 3 has 10 sequences, it was to be divided as one of"):
        stream.train_batches(Shares(9, 1, 3), step=3, rank=0)


def test_a_skipped_batch_moves_the_later_ones_forward(stream: Stream) -> None:
    plan = stream.plan.model_copy(update={"skipped_batches": (1,)})
    skipping = replace(stream, plan=plan)
    assert global_hash(skipping, 0, 2, 3) == global_hash(stream, 0, 1, 10)
    assert global_hash(skipping, 1, 2, 3) == global_hash(stream, 2, 1, 10)


def packed_stream(store: Path, packing: str, **changes: Any) -> Stream:  # noqa: ANN401
    snapshot = write_packed(store, packing)
    recipe = make_recipe(store, store, batch_sequences=30, **changes)
    return open_stream(str(store), snapshot, data_plan(recipe.pretrain, snapshot))


@pytest.mark.parametrize("packing", FORMATS)
def test_starts_are_those_of_the_shard(tmp_path: Path, packing: str) -> None:
    stream = packed_stream(tmp_path, packing, isolate_documents=True)
    (batch,) = stream.train_batches(Shares(30, 1, 32, fixed_rows=32), 0, 0)
    assert batch.starts is not None
    assert batch.starts.dtype == torch.int32
    width = batch.starts.shape[1]
    assert width >= 8
    assert width & (width - 1) == 0
    several = 0
    for at, row in enumerate(batch.rows[:30]):
        entry, local = stream.train.locate(int(row))
        shard = Shard(f"{snapshot_root(str(tmp_path), 'one')}/{entry.path}")
        expected = shard.segment_starts(local).tolist()
        several += len(expected) > 1
        assert batch.starts[at].tolist() == expected + [64] * (width - len(expected))
    assert (several > 0) == (packing not in PAIRED)
    assert batch.starts[30:].tolist() == [[0] + [64] * (width - 1)] * 2


def test_without_isolation_there_are_no_starts(stream: Stream) -> None:
    (batch,) = stream.train_batches(Shares(10, 1, 10), 0, 0)
    assert batch.starts is None
    assert batch.next_sentence is None


@pytest.mark.parametrize("packing", PAIRED)
def test_next_sentence_labels_are_those_of_the_shard(tmp_path: Path, packing: str) -> None:
    stream = packed_stream(tmp_path, packing)
    (batch,) = stream.train_batches(Shares(30, 1, 32, fixed_rows=32), 0, 0)
    assert batch.next_sentence is not None
    assert batch.next_sentence.dtype == torch.int64
    label_of = {1: 0, 0: 1, 2: IGNORED}
    for row, label in zip(batch.rows[:30], batch.next_sentence.tolist(), strict=False):
        entry, local = stream.train.locate(int(row))
        shard = Shard(f"{snapshot_root(str(tmp_path), 'one')}/{entry.path}")
        assert label == label_of[int(shard.next_sentence[local])]
    assert {0, 1} <= set(batch.next_sentence.tolist())
    assert batch.next_sentence[30:].tolist() == [IGNORED] * 2


def test_next_sentence_labels_can_be_left_out(tmp_path: Path) -> None:
    stream = packed_stream(tmp_path, "sentence-pair", next_sentence=False)
    (batch,) = stream.train_batches(Shares(30, 1, 30), 0, 0)
    assert batch.next_sentence is None


@pytest.mark.parametrize("packing", FORMATS)
def test_batches_of_every_format_do_not_depend_on_the_layout(tmp_path: Path, packing: str) -> None:
    stream = packed_stream(tmp_path, packing, isolate_documents=True)
    whole = hash_batches(stream.train_batches(Shares(30, 1, 30), 1, 0))
    for world, micro in ((2, 4), (4, 3), (7, 30)):
        shares = Shares(30, world, micro)
        ranks = [hash_batches(stream.train_batches(shares, 1, rank)) for rank in range(world)]
        assert sum(ranks) % 2**256 == whole


@pytest.mark.parametrize("name", ["starts", "next_sentence"])
def test_the_hash_sees_what_only_some_batches_have(tmp_path: Path, name: str) -> None:
    stream = packed_stream(tmp_path, "sentence-pair", isolate_documents=True)
    (batch,) = stream.train_batches(Shares(30, 1, 30), 0, 0)
    before = hash_batches([batch])
    getattr(batch, name)[4] += 1
    assert hash_batches([batch]) != before


def test_validation_can_be_on_another_snapshot(tmp_path: Path) -> None:
    other = write_snapshot(tmp_path, label="zero", shards=(("news", "validation", 9),))
    snapshot = write_snapshot(tmp_path)
    recipe = make_recipe(tmp_path, tmp_path, batch_sequences=10, validation_snapshot="zero")
    plan = data_plan(recipe.pretrain, snapshot)
    stream = open_stream(str(tmp_path), snapshot, plan, recipe.pretrain)
    assert stream.validation.count == 9
    assert [entry.path for entry in stream.validation.entries] == [other.shards[0].path]
    own = open_stream(str(tmp_path), snapshot, plan)
    assert own.validation.count == 17
    # It decides no batch.
    assert global_hash(stream, 3, 1, 10) == global_hash(own, 3, 1, 10)
    assert plan == data_plan(make_recipe(tmp_path, tmp_path, batch_sequences=10).pretrain, snapshot)


def test_validation_on_rows_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_snapshot(tmp_path, label="zero", sequence_length=32)
    snapshot = write_snapshot(tmp_path)
    recipe = make_recipe(tmp_path, tmp_path, validation_snapshot="zero")
    plan = data_plan(recipe.pretrain, snapshot)
    message = r"validation_snapshot zero has \(tokenizer, sequence length\) \(.*, 32\), the run's"
    with pytest.raises(ValueError, match=message):
        open_stream(str(tmp_path), snapshot, plan, recipe.pretrain)
