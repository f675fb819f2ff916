"""What recipe and snapshot make of a run: model shape, data plan, learning rate.

The *data plan* is everything that decides which tokens and masks a step sees, and nothing else:
together with the step it fixes a global batch (DESIGN promise 6). World size, microbatch, ZeRO
stage, learning rate and model size are not in it, so they may change when a run is resumed.
"""

import hashlib
import math
from typing import Literal, NamedTuple

import orjson
from pydantic import Field, field_validator

from corpus.section import Section
from corpus.snapshots import Snapshot
from corpus.training import BatchRamp, MaskRamp, Pretrain

# layers, width, heads, feed-forward width. base and large: RoBERTa paper, Table 9; tiny and small
# are ours, for tests and for the demo.
PRESETS = {
    "tiny": (2, 128, 2, 512),
    "small": (4, 256, 4, 1024),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}


class ModelShape(Section):
    """Every number that decides the shape of a parameter."""

    layers: int = Field(ge=1, description="transformer layers")
    width: int = Field(ge=1, description="hidden size")
    heads: int = Field(ge=1, description="attention heads; they divide the width")
    feedforward_width: int = Field(ge=1, description="inner size of the feed-forward layers")
    vocab_size: int = Field(ge=6, description="entries of the tokenizer")
    sequence_length: int = Field(ge=1, description="tokens a row")
    next_sentence: bool = Field(False, description="a head for next sentences is trained along")

    @property
    def max_positions(self) -> int:
        """Rows of the position table: RoBERTa's positions begin at the padding id + 1 = 2."""
        return self.sequence_length + 2


def model_shape(preset: str, snapshot: Snapshot, next_sentence: bool = False) -> ModelShape:
    """Fit a preset to the vocabulary and the sequence length of a snapshot."""
    return fit_preset(preset, snapshot.vocab_size, snapshot.sequence_length, next_sentence)


def fit_preset(
    preset: str, vocab_size: int, sequence_length: int, next_sentence: bool = False
) -> ModelShape:
    """Fit a preset to a vocabulary and a sequence length."""
    layers, width, heads, feedforward_width = PRESETS[preset]
    return ModelShape(
        layers=layers,
        width=width,
        heads=heads,
        feedforward_width=feedforward_width,
        vocab_size=vocab_size,
        sequence_length=sequence_length,
        next_sentence=next_sentence,
    )


class BatchPlace(NamedTuple):
    """Where a step's batch lies in the endless run of sequences."""

    number: int
    first: int
    sequences: int


class DataPlan(Section):
    """What decides the tokens, masks and labels of every step.

    A field that is added later needs a default meaning "as before": defaults stay out of the hash,
    so that old checkpoints keep theirs.
    """

    version: int = Field(description="raised when the same fields come to mean another batch")
    snapshot: str = Field(description="fingerprint of the snapshot")
    seed: int = Field(ge=0, description="of the order and of the masks")
    batch_sequences: int = Field(ge=1, description="sequences a step, over all ranks")
    mask_prob: float = Field(description="share of a row's real tokens to predict")
    leave_unmasked_prob: float = Field(description="of those, left as they are")
    random_token_prob: float = Field(description="of those, replaced by a random token")
    batch_ramp: BatchRamp | None = Field(None, description="of the batch size")
    skipped_batches: tuple[int, ...] = Field((), description="numbers of batches left out, sorted")
    mixing: tuple[tuple[str, int], ...] = Field(
        (), description="sources by name with whole weights; empty: mixed by size"
    )
    shuffle_shards: int | None = Field(None, description="shards shuffled together; absent: all")
    masking: Literal["fixed", "bernoulli", "whole-word", "span"] = Field("fixed")
    mask_ramp: MaskRamp | None = Field(None, description="of the masking rate")
    mask_copies: int | None = Field(None, description="static masks of a row; absent: dynamic")
    isolate_documents: bool = Field(False, description="batches say where documents start")
    next_sentence: bool = Field(True, description="batches of pairs have its labels")

    @field_validator("skipped_batches")
    @classmethod
    def _sorted_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(number < 0 for number in value):
            raise ValueError(f"skipped_batches names {min(value)}: batches are counted from 0")
        return tuple(sorted(set(value)))

    @property
    def hash(self) -> str:
        """SHA-256 of the plan, in hexadecimal."""
        meaning = self.model_dump(exclude_defaults=True)
        return hashlib.sha256(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def batch_of(self, step: int) -> BatchPlace:
        """Return the batch of a step: its number, its first sequence number and its size.

        Step k takes the k-th batch that is not skipped. Batch 4, ramp from 2 in 2 batches, batch 1
        skipped -> steps 0, 1, 2: (0, 0, 2), (2, 5, 4), (3, 9, 4)
        """
        number = step
        for skipped in self.skipped_batches:
            if skipped > number:
                break
            number += 1
        first = self._first_sequence(number)
        return BatchPlace(number, first, self._first_sequence(number + 1) - first)

    def _first_sequence(self, number: int) -> int:
        """Count the sequences of all batches before one.

        Batch b of a ramp over n from F to T has F + (T - F) b / n sequences, rounded so that the
        running sum is the rounded sum.
        """
        if self.batch_ramp is None:
            return number * self.batch_sequences
        start, length = self.batch_ramp.from_sequences, self.batch_ramp.batches
        ramped = min(number, length)
        growth = (self.batch_sequences - start) * ramped * (ramped - 1) // (2 * length)
        return start * ramped + growth + (number - ramped) * self.batch_sequences


# Raised by hand when the order, the masks or a batch hash come out differently.
PLAN_VERSION = 2


def data_plan(
    config: Pretrain, snapshot: Snapshot, skipped_batches: tuple[int, ...] = ()
) -> DataPlan:
    """Collect the data plan of a run."""
    return plan_over(config, snapshot.fingerprint, skipped_batches)


def plan_over(
    config: Pretrain, fingerprint: str, skipped_batches: tuple[int, ...] = ()
) -> DataPlan:
    """Collect the data plan of a run over the snapshot of a fingerprint."""
    return DataPlan(
        version=PLAN_VERSION,
        snapshot=fingerprint,
        seed=config.seed,
        batch_sequences=config.batch_sequences,
        mask_prob=config.mask_prob,
        leave_unmasked_prob=config.leave_unmasked_prob,
        random_token_prob=config.random_token_prob,
        batch_ramp=config.batch_ramp,
        skipped_batches=skipped_batches,
        mixing=config.whole_mixing,
        shuffle_shards=config.shuffle_shards,
        masking=config.masking,
        mask_ramp=config.mask_ramp,
        mask_copies=config.mask_copies,
        isolate_documents=config.isolate_documents,
        next_sentence=config.next_sentence,
    )


class Identity(Section):
    """What a checkpoint must share with a run that goes on from it."""

    snapshot_label: str
    tokenizer: str = Field(description="fingerprint of the tokenizer")
    model: ModelShape
    plan: DataPlan
    start: str | None = Field(
        None, description="SHA-256 of the exported weights that it began with; None: drawn by seed"
    )

    def agrees(self, other: "Identity", step: int) -> bool:
        """Tell whether both are the same but for batches that one leaves out from `step` on."""
        rest = [
            each.model_copy(update={"plan": _without_skips(each.plan)}) for each in (self, other)
        ]
        taken = [_skipped_before(each.plan, step) for each in (self, other)]
        return rest[0] == rest[1] and taken[0] == taken[1]


def _without_skips(plan: DataPlan) -> DataPlan:
    return plan.model_copy(update={"skipped_batches": ()})


def _skipped_before(plan: DataPlan, step: int) -> tuple[int, ...]:
    """List the batches left out before the last one that `step` steps took."""
    last = plan.batch_of(step - 1).number if step else 0
    return tuple(number for number in plan.skipped_batches if number < last)


def learning_rate_at(config: Pretrain, step: int) -> float:
    """Give the learning rate of a step, counted from 0: linear warmup, then decay to 0.

    Peak 1, 2 warmup steps, 6 steps in all:
    linear -> [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]; cosine -> [0.5, 1.0, 1.0, 0.85, 0.5, 0.15];
    trapezoidal with 2 steps of decay -> [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    decay = config.max_steps - config.warmup_steps
    if config.schedule == "trapezoidal":
        decay = config.last_steps
    left = min(1.0, (config.max_steps - step) / max(1, decay))
    if config.schedule == "cosine":
        left = (1 - math.cos(math.pi * left)) / 2
    return config.learning_rate * left
