"""The recipe's section on training: every key of a masked-language-model run.

It stands in `corpus` because both command lines check the whole recipe (recipe.py); what is made of
it is in `pretrain`.
"""

from typing import Literal

from pydantic import Field, model_validator

from corpus.section import Section


class Pretrain(Section):
    """A masked-language-model run; the defaults are the base column of the paper's Table 9."""

    run: str | None = Field(None, description="output directory: checkpoints, metrics")
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
    spike_window_steps: int = Field(128, ge=4, description="losses that median is of")
    spike_batches: int = Field(2, ge=1, description="batches left out: the last ones, up to it")
    max_rollbacks: int = Field(10, ge=1, description="rollbacks of a run; at the next it stops")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="where the metrics go beside metrics.jsonl; each has to be installed"
    )
    precision: Literal["fp32", "bf16"] = Field("bf16", description="of weights and activations")
    dropout: float = Field(0.1, ge=0, lt=1, description="hidden and attention dropout")
    weight_decay: float = Field(0.01, ge=0, description="decoupled, not on biases and norms")
    adam_betas: tuple[float, float] = Field((0.9, 0.98), description="decay of the moments")
    adam_epsilon: float = Field(1e-6, gt=0, description="added to the root of the variance")
    mask_prob: float = Field(0.15, gt=0, le=0.5, description="share of real tokens to predict")
    leave_unmasked_prob: float = Field(0.1, ge=0, le=1, description="of those, left as they are")
    random_token_prob: float = Field(0.1, ge=0, le=1, description="of those, a random token")

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
