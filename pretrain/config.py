"""What recipe and snapshot make of a run: model shape, data plan, learning rate.

The *data plan* is everything that decides which tokens and masks a step sees, and nothing else:
together with the step it fixes a global batch (DESIGN promise 6). World size, microbatch, ZeRO
stage, learning rate and model size are not in it, so they may change when a run is resumed.
"""

import hashlib

import orjson
from pydantic import Field

from corpus.section import Section
from corpus.snapshots import Snapshot
from corpus.training import Pretrain

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

    @property
    def max_positions(self) -> int:
        """Rows of the position table: RoBERTa's positions begin at the padding id + 1 = 2."""
        return self.sequence_length + 2


def model_shape(preset: str, snapshot: Snapshot) -> ModelShape:
    """Fit a preset to the vocabulary and the sequence length of a snapshot."""
    layers, width, heads, feedforward_width = PRESETS[preset]
    return ModelShape(
        layers=layers,
        width=width,
        heads=heads,
        feedforward_width=feedforward_width,
        vocab_size=snapshot.vocab_size,
        sequence_length=snapshot.sequence_length,
    )


class DataPlan(Section):
    """What decides the tokens and masks of every step.

    A field that is added later needs a default meaning "as before": defaults stay out of the hash,
    so that old checkpoints keep theirs. Sources are mixed by size and no sequence is skipped.
    """

    version: int = Field(description="raised when the same fields come to mean another batch")
    snapshot: str = Field(description="fingerprint of the snapshot")
    seed: int = Field(ge=0, description="of the order and of the masks")
    batch_sequences: int = Field(ge=1, description="sequences a step, over all ranks")
    mask_prob: float = Field(description="share of a row's real tokens to predict")
    leave_unmasked_prob: float = Field(description="of those, left as they are")
    random_token_prob: float = Field(description="of those, replaced by a random token")

    @property
    def hash(self) -> str:
        """SHA-256 of the plan, in hexadecimal."""
        meaning = self.model_dump(exclude_defaults=True)
        return hashlib.sha256(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS)).hexdigest()


# Raised by hand when the order, the masks or a batch hash come out differently.
PLAN_VERSION = 1


def data_plan(config: Pretrain, snapshot: Snapshot) -> DataPlan:
    """Collect the data plan of a run."""
    return DataPlan(
        version=PLAN_VERSION,
        snapshot=snapshot.fingerprint,
        seed=config.seed,
        batch_sequences=config.batch_sequences,
        mask_prob=config.mask_prob,
        leave_unmasked_prob=config.leave_unmasked_prob,
        random_token_prob=config.random_token_prob,
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


def learning_rate_at(config: Pretrain, step: int) -> float:
    """Give the learning rate of a step, counted from 0: linear warmup, then linear decay to 0.

    Peak 1, 2 warmup steps, 6 steps in all -> [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = (config.max_steps - step) / max(1, config.max_steps - config.warmup_steps)
    return config.learning_rate * left
