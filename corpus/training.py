"""The recipe's section on training: every key of a masked-language-model run.

It stands in `corpus` because both command lines check the whole recipe (recipe.py); what is made of
it is in `pretrain`.
"""

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from corpus.section import Location, Section

_Beta = Annotated[float, Field(ge=0, lt=1)]
MAX_WHOLE_WEIGHTS = 2**31  # products of two of them stay below 2^63


class BatchRamp(Section):
    """A batch that grows (or shrinks) linearly, batch by batch, to `batch_sequences`."""

    from_sequences: int = Field(ge=1, description="sequences of the first batch")
    batches: int = Field(ge=1, lt=2**31, description="batches until the full size")


class MaskRamp(Section):
    """A masking rate that moves linearly, step by step, to `mask_prob`."""

    from_prob: float = Field(gt=0, le=0.5, description="share of real tokens at step 0")
    steps: int = Field(ge=1, lt=2**31, description="steps until mask_prob")


class Cache(Section):
    """Local copies of the shards of a remote store."""

    directory: Location = Field(description="local; processes and runs may share it")
    max_bytes: int = Field(ge=1, description="upper bound of what lies in it")


class Pretrain(Section):
    """A masked-language-model run; the defaults are the base column of the paper's Table 9."""

    model_config = ConfigDict(allow_inf_nan=False)

    run: Location | None = Field(None, description="output directory: checkpoints, metrics")
    preset: Literal["tiny", "small", "base", "large"] = Field("base", description="model size")
    max_steps: int = Field(500_000, ge=1, description="optimizer steps")
    batch_sequences: int = Field(8192, ge=1, description="sequences a step, over all ranks")
    microbatch_sequences: int = Field(32, ge=1, description="sequences a forward pass and rank")
    learning_rate: float = Field(6e-4, gt=0, description="peak learning rate")
    warmup_steps: int = Field(24_000, ge=0, description="steps of linear warmup")
    seed: int = Field(0, ge=0, lt=2**63, description="seeds weights, order, masks and dropout")
    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="DeepSpeed ZeRO stage")
    processes: int = Field(1, ge=1, description="ranks on this machine")
    checkpoint_every_steps: int = Field(1000, ge=1, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints that stay")
    keep_checkpoint_every_steps: int | None = Field(
        None, ge=1, description="checkpoints of steps that this divides stay for good"
    )
    checkpoint_root: Location | None = Field(
        None, description="path or URL below which checkpoints go instead of `run`"
    )
    init_from: Location | None = Field(
        None, description="exported checkpoint whose weights a new run begins with"
    )
    ray_workers: int | tuple[int, int] | None = Field(
        None,
        description="ranks on a Ray cluster instead of `processes`: a number or [fewest, most]",
    )
    ray_worker_cpus: int = Field(1, ge=1, description="cores that Ray reserves for a rank")
    ray_grow_after_seconds: float = Field(
        300,
        gt=0,
        description="between two looks whether more ranks have room; to grow costs a start and the "
        "steps since the last checkpoint",
    )
    ray_max_failures: int = Field(
        3, ge=0, description="restarts after failed ranks; machines given notice of do not count"
    )
    validate_every_steps: int = Field(1000, ge=1, description="steps between validations")
    validation_sequences: int = Field(
        1024, ge=1, description="at most this many validation rows, spread over all of them"
    )
    on_spike: Literal["stop", "skip"] = Field(
        "stop",
        description="at a loss that is no number: stop; or go back to a checkpoint and leave the "
        "guilty batches out, also where the loss leaps",
    )
    spike_sigmas: float = Field(
        6.0, gt=0, description="a leap lies so many deviations above the last losses' median"
    )
    spike_window_steps: int = Field(128, ge=16, description="losses that median is of")
    spike_batches: int = Field(2, ge=1, description="batches left out: the last ones, up to it")
    max_rollbacks: int = Field(10, ge=1, description="rollbacks of a run; at the next it stops")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="where the metrics go beside metrics.jsonl; each has to be installed"
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of weights and activations")
    dropout: float = Field(0.1, ge=0, lt=1, description="hidden and attention dropout")
    weight_decay: float = Field(0.01, ge=0, description="decoupled, not on biases and norms")
    adam_betas: tuple[_Beta, _Beta] = Field((0.9, 0.98), description="decay of the moments")
    adam_epsilon: float = Field(1e-6, gt=0, description="added to the root of the variance")
    optimizer: Literal["adamw", "muon", "lamb", "stableadamw"] = Field(
        "adamw", description="all but adamw need zero_stage 0"
    )
    schedule: Literal["linear", "cosine", "trapezoidal"] = Field(
        "linear", description="of the learning rate after warmup, down to 0"
    )
    decay_steps: int | None = Field(
        None, ge=1, description="last steps of a trapezoidal schedule; absent: a tenth of max_steps"
    )
    max_gradient_norm: float | None = Field(
        None, gt=0, description="longer gradients are scaled down to it; absent: none are"
    )
    attention_dropout: float | None = Field(
        None, ge=0, lt=1, description="of attention weights; absent: that of dropout"
    )
    recompute_activations: bool = Field(
        False, description="less memory for a third more work: only layer inputs are kept"
    )
    compile: bool = Field(
        False, description="by torch.compile; needs a C++ compiler; on a CPU it gains nothing"
    )
    vocabulary_multiple: int | None = Field(
        None, ge=1, description="logits are over a vocabulary rounded up to it; absent: 64 on a GPU"
    )
    mask_prob: float = Field(0.15, gt=0, le=0.5, description="share of real tokens to predict")
    leave_unmasked_prob: float = Field(0.1, ge=0, le=1, description="of those, left as they are")
    random_token_prob: float = Field(0.1, ge=0, le=1, description="of those, a random token")
    batch_ramp: BatchRamp | None = Field(None, description="absent: every batch has one size")
    masking: Literal["fixed", "bernoulli", "whole-word", "span"] = Field(
        "fixed",
        description="a fixed share of each row's tokens; each token by itself; whole words; or "
        "spans of words, as in SpanBERT",
    )
    mask_ramp: MaskRamp | None = Field(None, description="absent: mask_prob at every step")
    mask_copies: int | None = Field(
        None, ge=1, description="static masks: a row has so many, pass by pass; BERT: 10"
    )
    isolate_documents: bool = Field(False, description="no attention across documents of a row")
    next_sentence: bool = Field(True, description="predict it too where rows are pairs")
    mixing: dict[str, float] | None = Field(
        None, description="weight of each source, 0 leaves it out; absent: by their sizes"
    )
    shuffle_shards: int | None = Field(
        None, ge=1, description="rows are shuffled within so many shards at a time; absent: all"
    )
    cache: Cache | None = Field(None, description="for remote stores; absent: shards in memory")
    validation_snapshot: str | None = Field(
        None, description="label of the snapshot to validate on; absent: the run's own"
    )

    @model_validator(mode="after")
    def _mixing_has_weights(self) -> "Pretrain":
        for source, weight in (self.mixing or {}).items():
            if weight < 0:
                raise ValueError(f"mixing gives {source} the weight {weight}: 0 or more")
        if self.mixing is not None and not any(self.mixing.values()):
            raise ValueError("mixing has no weight above 0")
        total = sum(weight for _, weight in self.whole_mixing)
        if total >= MAX_WHOLE_WEIGHTS:
            raise ValueError(f"mixing is {total:,} parts in whole numbers: use fewer digits")
        return self

    @property
    def whole_mixing(self) -> tuple[tuple[str, int], ...]:
        """The weights as the smallest whole numbers of their proportions, sources sorted.

        {"wiki": 0.3, "books": 0.1} -> (("books", 1), ("wiki", 3))
        """
        exact = {name: Fraction(repr(each)) for name, each in sorted((self.mixing or {}).items())}
        common = math.lcm(*(each.denominator for each in exact.values()))
        whole = {name: int(each * common) for name, each in exact.items()}
        divisor = math.gcd(*whole.values()) or 1
        return tuple((name, each // divisor) for name, each in whole.items())

    @model_validator(mode="after")
    def _ranks_fit(self) -> "Pretrain":
        if self.ray_workers is None:
            return self
        fewest, most = self.worker_range
        if not 1 <= fewest <= most:
            raise ValueError(
                f"ray_workers is {self.ray_workers}: give a number from 1, or [fewest, most]"
            )
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """The fewest and the most ranks on a Ray cluster."""
        workers = 1 if self.ray_workers is None else self.ray_workers
        return (workers, workers) if isinstance(workers, int) else workers

    @model_validator(mode="after")
    def _shares_and_steps_fit(self) -> "Pretrain":
        if self.leave_unmasked_prob + self.random_token_prob > 1:
            raise ValueError("leave_unmasked_prob + random_token_prob is above 1")
        if self.warmup_steps > self.max_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, more than max_steps {self.max_steps}"
            )
        if self.zero_stage == 0 and self.precision == "bf16":
            raise ValueError(
                "zero_stage 0 with bf16 would accumulate gradients in bf16: "
                "take stage 1 or precision fp32"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_sees_whole_tensors(self) -> "Pretrain":
        if self.optimizer != "adamw" and self.zero_stage > 0:
            raise ValueError(
                f"optimizer {self.optimizer} needs zero_stage 0: it works on whole tensors, and "
                f"zero_stage {self.zero_stage} gives it pieces that depend on the world size"
            )
        return self

    @model_validator(mode="after")
    def _compiled_model_is_whole(self) -> "Pretrain":
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile needs zero_stage 2 or lower: 3 gathers the parameters of every layer "
                "while it runs, which cannot be compiled"
            )
        return self

    @model_validator(mode="after")
    def _static_masks_stay(self) -> "Pretrain":
        if self.mask_copies is not None and self.mask_ramp is not None:
            raise ValueError(
                "mask_copies with mask_ramp: static masks come back as they were, but a ramp draws "
                "them otherwise at every step: take one of the two"
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> "Pretrain":
        if self.decay_steps is not None and self.schedule != "trapezoidal":
            raise ValueError(f"decay_steps is for schedule trapezoidal, not {self.schedule}")
        if self.schedule == "trapezoidal" and self.warmup_steps + self.last_steps > self.max_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and decay_steps {self.last_steps} are more than "
                f"max_steps {self.max_steps}"
            )
        return self

    @property
    def last_steps(self) -> int:
        """Steps over which a trapezoidal schedule decays."""
        return self.decay_steps or -(-self.max_steps // 10)
