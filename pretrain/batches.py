"""A step's rows with their masks, as the tensors that the model takes, and the hash of them.

The hash of a global batch is the sum modulo 2^256 of its rows' SHA-256 values, each over (sequence
number, row, input ids, slots, labels). A rank hashes its own rows; the sum over ranks is the hash
of the batch, whatever the world size and the microbatch.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from corpus.snapshots import Snapshot
from corpus.tokenizer import BOS_ID, PAD_ID
from pretrain.config import DataPlan
from pretrain.dataset import Int32s, Int64s, Rows, Shares, UInt64s, open_rows, rows_of
from pretrain.masking import (
    IGNORED,
    MaskRule,
    mask_rows,
    mask_rule,
    train_keys,
    validation_keys,
)

HASH_BITS = 256


@dataclass(frozen=True)
class Batch:
    """One microbatch. A surplus row is a lone <s> without labels, number and row -1."""

    numbers: Int64s
    rows: Int64s
    inputs: torch.Tensor
    lengths: torch.Tensor
    slots: torch.Tensor
    labels: torch.Tensor
    starts: torch.Tensor | None = None
    next_sentence: torch.Tensor | None = None

    @property
    def label_count(self) -> int:
        """Labels of the microbatch."""
        return int((self.labels != IGNORED).sum())

    @property
    def token_count(self) -> int:
        """Real tokens of the microbatch, special tokens included, surplus rows not."""
        return int(self.lengths[torch.from_numpy(self.numbers >= 0)].sum())


@dataclass(frozen=True)
class Stream:
    """A snapshot's rows with the plan that draws batches from them."""

    train: Rows
    validation: Rows
    plan: DataPlan
    rule: MaskRule

    def train_batches(self, shares: Shares, step: int, rank: int) -> list[Batch]:
        """Draw a rank's microbatches of a step, counted from 0."""
        offsets = shares.offsets(rank)
        numbers = np.where(offsets < 0, -1, step * self.plan.batch_sequences + offsets)
        rows = np.full_like(numbers, -1)
        rows[numbers >= 0] = rows_of(numbers[numbers >= 0], self.train.count, self.plan.seed)
        return [
            _build(
                self.train,
                self.rule,
                (some_numbers, some_rows),
                train_keys(self.plan.seed, some_numbers[some_numbers >= 0], self.train.count),
            )
            for some_numbers, some_rows in zip(numbers, rows, strict=True)
        ]

    def validation_batches(self, shares: Shares, rank: int) -> Iterator[Batch]:
        """Draw a rank's microbatches of the validation rows, spread evenly over all of them."""
        for offsets in shares.offsets(rank):
            spread = offsets * self.validation.count // shares.batch_sequences
            rows = np.where(offsets < 0, -1, spread)
            keys = validation_keys(rows[rows >= 0])
            yield _build(self.validation, self.rule, (offsets, rows), keys)


def open_stream(store: str, snapshot: Snapshot, plan: DataPlan) -> Stream:
    """Open a snapshot for training; `ValueError` where it has no rows to train on."""
    train = open_rows(store, snapshot, "train")
    if train.count == 0:
        raise ValueError(
            f"snapshot {snapshot.label} of {store} has no training sequences: "
            "deliver more documents, or lower pack.validation_fraction"
        )
    rule = mask_rule(plan, snapshot.vocab_size, snapshot.sequence_length)
    return Stream(train, open_rows(store, snapshot, "validation"), plan, rule)


def _build(data: Rows, rule: MaskRule, places: tuple[Int64s, Int64s], keys: UInt64s) -> Batch:
    """Gather and mask the rows of `places`, (numbers, rows); the surplus, -1, comes last."""
    numbers, rows = places
    tokens, lengths = data.gather(rows[rows >= 0])
    masked = mask_rows(tokens, lengths, keys, rule)
    surplus = int((rows < 0).sum())
    batch = Batch(
        numbers=numbers,
        rows=rows,
        inputs=_extend(masked.inputs_BS, surplus, PAD_ID),
        lengths=_extend(lengths, surplus, 1),
        slots=_extend(masked.slots_BM, surplus, 0),
        labels=_extend(masked.labels_BM, surplus, IGNORED),
    )
    batch.inputs[len(rows) - surplus :, 0] = BOS_ID
    return batch


def _extend(values: Int32s | Int64s, surplus: int, filling: int) -> torch.Tensor:
    filled = np.full((surplus, *values.shape[1:]), filling, values.dtype)
    return torch.from_numpy(np.concatenate([values, filled]) if surplus else values)


def hash_batches(batches: Iterable[Batch]) -> int:
    """Hash the tensors of microbatches: the sum of their rows' SHA-256 values, modulo 2^256."""
    total = 0
    for batch in batches:
        parts = [batch.numbers[:, None], batch.rows[:, None], batch.slots.numpy()]
        wide = np.concatenate([*parts, batch.labels.numpy()], axis=1).astype("<i8")
        inputs = batch.inputs.numpy().astype("<i4")
        for number, row_wide, row_inputs in zip(batch.numbers, wide, inputs, strict=True):
            if number >= 0:
                digest = hashlib.sha256(row_wide)
                digest.update(row_inputs)
                total += int.from_bytes(digest.digest(), "big")
    return total % (1 << HASH_BITS)
