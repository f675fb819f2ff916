import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_helpers import SHARDS, make_recipe, write_snapshot

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
        == "382363f6383a75ecb78b6f6957322dd1fdcaf30b808800e4dc25ee50450cf781"
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
