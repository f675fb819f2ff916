"""A step's rows with their masks, as the tensors that the model takes, and the hash of them.

All rows of a rank's step are drawn at once, and its microbatches are views of them.

The hash of a global batch is the sum modulo 2^256 of its rows' SHA-256 values, each over (sequence
number, row, slots, labels, input ids), then, where there are any, the document starts without
their filling and the next-sentence label. A rank hashes its own rows; the sum over ranks is the
hash of the batch, whatever the world size and the microbatch.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch

from corpus.files import is_remote
from corpus.shards import PAIRED, SEPARATE
from corpus.snapshots import Snapshot, open_snapshot
from corpus.tokenizer import BOS_ID, PAD_ID
from corpus.training import Pretrain
from pretrain.cache import ShardCache, most_open_files
from pretrain.config import DataPlan
from pretrain.dataset import Int32s, Int64s, Rows, Shares, UInt64s, open_rows
from pretrain.kernels import find_starts
from pretrain.masking import (
    IGNORED,
    MaskRule,
    mask_in_place,
    mask_rule,
    rule_at,
    train_keys,
    validation_keys,
)
from pretrain.mixing import Order

HASH_BITS = 256
# What a shard says of a pair (corpus.shards.Sequences) as the label of Devlin et al. 2019.
_NEXT_SENTENCE = np.array([1, 0, IGNORED], np.int64)
# Room for document starts: few shapes, so that a compiled model is not compiled anew for each.
LEAST_STARTS = 8
# The shards that are shuffled together where a batch ends, and those that are next.
_WINDOWS = 2
# What a rank has open beside shards: libraries, connections to other ranks and the store. Guess.
_OTHER_FILES = 200


@dataclass(frozen=True)
class Batch:
    """One microbatch. A surplus row is a lone <s> without labels, number and row -1.

    starts: int32 [B, D], where the parts of each row begin that attention keeps apart, the first
    at 0, filled up with the sequence length; D is a power of two. None without
    `isolate_documents`. next_sentence: int64 [B], 0 where the second half follows the first, 1
    where it is a random one, -100 for rows without a second half and for surplus rows. None where
    rows are not pairs or it is not asked for.
    """

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
    order: Order
    rule: MaskRule
    cache: ShardCache | None = None

    @property
    def has_pairs(self) -> bool:
        """Tell whether batches have next-sentence labels."""
        return self.plan.next_sentence and self.train.packing in PAIRED

    def close(self) -> None:
        """End what is done in the background, and let go of cached shards."""
        if self.cache is not None:
            self.train.expect((), ())
            self.cache.close()

    def shares_at(self, step: int, world_size: int, max_microbatch: int) -> Shares:
        """Divide the batch of a step; microbatches have the same shape at every step."""
        largest = Shares(self.plan.batch_sequences, world_size, max_microbatch)
        if self.plan.batch_ramp is None:
            return largest
        sequences = self.plan.batch_of(step).sequences
        return Shares(sequences, world_size, max_microbatch, largest.microbatch_sequences)

    def train_batches(self, shares: Shares, step: int, rank: int) -> list[Batch]:
        """Draw a rank's microbatches of a step, counted from 0; `shares` are those of the step."""
        _, first, sequences = self.plan.batch_of(step)
        last = first + sequences - 1
        if shares.batch_sequences != sequences:
            raise ValueError(
                f"step {step} has {sequences} sequences, it was to be divided as one of "
                f"{shares.batch_sequences}: take the shares of this step"
            )
        offsets = shares.offsets(rank)
        numbers = first + offsets[offsets >= 0]
        if self.train.is_cached:
            kept = self.order.shards_from(last, last, _WINDOWS)
            self.train.expect(self.order.shards_from(first, last, _WINDOWS), kept)
        rows, passes = self.order.places(numbers)
        keys = train_keys(self.plan, numbers, rows, passes)
        rule = rule_at(self.rule, self.plan, step)
        drawn = _build(self.train, rule, self.plan, (numbers, rows, keys), offsets.size)
        return _split(drawn, shares.microbatch_sequences)

    def validation_batches(self, shares: Shares, rank: int) -> Iterator[Batch]:
        """Draw a rank's microbatches of the validation rows, spread evenly over all of them."""
        for offsets in shares.offsets(rank):
            numbers = offsets[offsets >= 0]
            rows = numbers * self.validation.count // shares.batch_sequences
            given = (numbers, rows, validation_keys(rows))
            yield _build(self.validation, self.rule, self.plan, given, len(offsets))


def open_stream(
    store: str, snapshot: Snapshot, plan: DataPlan, config: Pretrain | None = None
) -> Stream:
    """Open a snapshot for training; `ValueError` where it has no rows to train on.

    `config` says through which cache shards come, and on which snapshot to validate.
    """
    cache = ShardCache(config.cache) if config and config.cache and is_remote(store) else None
    train = open_rows(store, snapshot, "train", cache)
    if train.count == 0:
        raise ValueError(
            f"snapshot {snapshot.label} of {store} has no training sequences: "
            "deliver more documents, or lower pack.validation_fraction"
        )
    rule = mask_rule(plan, snapshot.vocab_size, snapshot.sequence_length)
    order = Order(plan, train.entries)
    judge = _validation_snapshot(store, snapshot, config)
    validation = open_rows(store, judge, "validation", cache)
    if cache is not None:
        _check_bound(cache, order, validation)
    return Stream(train, validation, plan, order, rule, cache)


def _validation_snapshot(store: str, snapshot: Snapshot, config: Pretrain | None) -> Snapshot:
    if config is None or config.validation_snapshot in (None, snapshot.label):
        return snapshot
    judge = open_snapshot(store, config.validation_snapshot)
    found = (judge.tokenizer, judge.sequence_length)
    if found != (snapshot.tokenizer, snapshot.sequence_length):
        raise ValueError(
            f"pretrain.validation_snapshot {judge.label} has (tokenizer, sequence length) {found}, "
            f"the run's snapshot {(snapshot.tokenizer, snapshot.sequence_length)}"
        )
    return judge


def _check_bound(cache: ShardCache, order: Order, validation: Rows) -> None:
    """Refuse a cache in which shards would come and go at every step, or be too many files."""
    held = order.largest_sizes(_WINDOWS)
    most = most_open_files()
    if len(held) + _OTHER_FILES > most:
        raise ValueError(
            f"this process may open {most:,} files, and each of the {len(held):,} shards that are "
            "shuffled together and next is one: raise the limit (`ulimit -n`), or set "
            "pretrain.shuffle_shards to fewer"
        )
    needed = sum(held) + sum(entry.size_bytes for entry in validation.entries)
    if needed > cache.max_bytes:
        together = order.plan.shuffle_shards
        now = "all of them" if together is None else str(together)
        fewer = f", or set pretrain.shuffle_shards, now {now}, to fewer shards"
        raise ValueError(
            f"pretrain.cache.max_bytes is {cache.max_bytes:,}, but the shards that are shuffled "
            f"together, the next ones and those of validation take {needed:,}: raise it"
            f"{'' if together == 1 else fewer}"
        )


def _build(
    data: Rows, rule: MaskRule, plan: DataPlan, given: tuple[Int64s, Int64s, UInt64s], size: int
) -> Batch:
    """Gather and mask rows, `given` as (numbers, rows, keys); fill up to `size` with surplus."""
    numbers, rows, keys = given
    tokens, lengths, words, follows = data.read(rows, rule.needs_words, plan.next_sentence)
    surplus = size - len(rows)
    starts = next_sentence = None
    if plan.isolate_documents:
        found = _starts(tokens, lengths, data.packing)
        starts = _extend(found, surplus, rule.sequence_length)
        starts[len(rows) :, 0] = 0
    if follows is not None:
        next_sentence = _extend(_NEXT_SENTENCE[follows], surplus, IGNORED)
    masked = mask_in_place(tokens, lengths, keys, rule, words)
    batch = Batch(
        numbers=np.concatenate([numbers, np.full(surplus, -1, np.int64)]),
        rows=np.concatenate([rows, np.full(surplus, -1, np.int64)]),
        inputs=_extend(masked.inputs_BS, surplus, PAD_ID),
        lengths=_extend(lengths, surplus, 1),
        slots=_extend(masked.slots_BM, surplus, 0),
        labels=_extend(masked.labels_BM, surplus, IGNORED),
        starts=starts,
        next_sentence=next_sentence,
    )
    batch.inputs[len(rows) :, 0] = BOS_ID
    return batch


def _split(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into microbatches, which are views."""
    values = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    parts = {
        name: torch.split(value, size) if torch.is_tensor(value) else value.reshape(-1, size)
        for name, value in values.items()
        if value is not None
    }
    rows = zip(*parts.values(), strict=True)
    return [Batch(**dict(zip(parts, each, strict=True))) for each in rows]


def _starts(tokens: Int32s, lengths: Int32s, packing: str) -> Int32s:
    """Find where the parts of rows begin, [B, D]; the halves of a pair are one part."""
    starts = np.full((len(tokens), LEAST_STARTS), tokens.shape[1], np.int32)
    if packing in PAIRED:
        starts[:, 0] = 0
        return starts
    most = find_starts(tokens, lengths, packing in SEPARATE, starts)
    if most <= LEAST_STARTS:
        return starts
    starts = np.full((len(tokens), 1 << (most - 1).bit_length()), tokens.shape[1], np.int32)
    find_starts(tokens, lengths, packing in SEPARATE, starts)
    return starts


def _extend(values: Int32s | Int64s, surplus: int, filling: int) -> torch.Tensor:
    filled = np.full((surplus, *values.shape[1:]), filling, values.dtype)
    return torch.from_numpy(np.concatenate([values, filled]) if surplus else values)


def hash_batches(batches: Iterable[Batch]) -> int:
    """Hash the tensors of microbatches: the sum of their rows' SHA-256 values, modulo 2^256."""
    total = 0
    for batch in batches:
        parts = [batch.numbers[:, None], batch.rows[:, None], batch.slots.numpy()]
        wide = np.concatenate([*parts, batch.labels.numpy()], axis=1).astype("<i8", copy=False)
        inputs = np.ascontiguousarray(batch.inputs.numpy().astype("<i4", copy=False))
        for at in range(int((batch.numbers >= 0).sum())):  # surplus rows come last
            digest = hashlib.sha256(wide[at])
            digest.update(inputs[at])
            if batch.starts is not None:
                starts = batch.starts[at].numpy()
                digest.update(starts[starts < inputs.shape[1]].astype("<i4"))
            if batch.next_sentence is not None:
                digest.update(int(batch.next_sentence[at]).to_bytes(8, "little", signed=True))
            total += int.from_bytes(digest.digest(), "big")
    return total % (1 << HASH_BITS)
