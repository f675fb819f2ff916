"""What an ablation consists of: settings, and the runs that they need, each with every seed.

Everything starts from one recipe. Table 1 changes the masks, Table 2 the packing, Table 3 the
batch; a run that two tables need is one run. What is held equal, as in the paper:

- Table 1: all but `mask_copies`. Each static mask must come back, so the passes over the rows must
  be more than the copies (paper: 40 passes, 10 copies).
- Table 2: updates, and tokens an update: formats that leave padding get more rows a batch, by their
  mean tokens a row (section 4.2 lets the batch grow so). Pairs are trained with the next-sentence
  loss, the others have none.
- Table 3: sequences in all, so updates are fewer where batches are larger; warmup keeps its share
  of the updates. The paper tuned the peak rate of each batch: the recipe gives one for each.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
from pydantic import ConfigDict, Field, model_validator

from corpus.recipe import Recipe
from corpus.section import LocalDirectory, Section
from corpus.training import Pretrain
from pretrain.evaluation.published import BATCHES, FORMATS, TABLES, Table
from pretrain.evaluation.scoring import FineTuning

# Raised by hand when the same settings come to mean another run.
VERSION = 1
# What cannot change a weight; a run that differs in these only is not made again.
_FREE = frozenset(
    (
        "run", "checkpoint_root", "trackers", "cache", "keep_checkpoints",
        "keep_checkpoint_every_steps", "checkpoint_every_steps", "validate_every_steps",
        "validation_sequences", "ray_grow_after_seconds", "ray_max_failures", "ray_worker_cpus",
    )
)  # fmt: skip


class BatchSetting(Section):
    """One batch size of Table 3 with the learning rate found for it."""

    model_config = ConfigDict(allow_inf_nan=False)

    sequences: int = Field(ge=1, description="sequences a step")
    learning_rate: float = Field(gt=0, description="peak learning rate")


class Ablation(Section):
    """Which of the paper's tables are asked again, and how."""

    output: LocalDirectory = Field(description="directory of stores, runs and results")
    tables: tuple[Table, ...] = Field(TABLES, min_length=1, description="what is compared")
    seeds: tuple[int, ...] = Field((0, 1, 2), description="three or more; paired across settings")
    confidence: float = Field(0.95, ge=0.5, lt=1, description="of every interval")
    mask_copies: int = Field(10, ge=1, description="static masks of a row (Table 1)")
    batches: tuple[BatchSetting, ...] = Field(
        (), description="small, medium and large batch (Table 3; in the paper 256, 2K, 8K)"
    )
    held_out_sequences: int = Field(
        4096, ge=1, description="at most this many validation rows are measured on"
    )

    fine_tuning: FineTuning = Field(FineTuning(), description="tasks to compare by; absent: none")

    @model_validator(mode="after")
    def _enough_seeds(self) -> "Ablation":
        if len(set(self.seeds)) < 3 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are {list(self.seeds)}: give three or more different ones")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds are {list(self.seeds)}: give whole numbers from 0 on")
        return self

    @model_validator(mode="after")
    def _batches_fit(self) -> "Ablation":
        sizes = [batch.sequences for batch in self.batches]
        if "batches" in self.tables and len(sizes) != len(BATCHES):
            raise ValueError(f"batches has {len(sizes)} sizes: Table 3 needs three, rising")
        if sorted(set(sizes)) != sizes:
            raise ValueError(f"batches has the sizes {sizes}: give them rising")
        return self


class AblationRecipe(Recipe):
    """A recipe of a run, and which of its choices are put to the test."""

    ablation: Ablation

    @model_validator(mode="after")
    def _batch_is_one(self) -> "AblationRecipe":
        if self.pretrain.batch_ramp is not None:
            raise ValueError("pretrain.batch_ramp: an ablation needs batches of one size")
        return self

    @property
    def base(self) -> Recipe:
        """The recipe that all runs start from."""
        return Recipe.model_validate(self.model_dump(exclude={"ablation"}))


@dataclass(frozen=True, eq=False)  # a key by identity: recipes hold what has no hash
class Setting:
    """One line of a table."""

    table: Table
    name: str
    packing: str
    pretrain: Pretrain


class Run(NamedTuple):
    """One training run; `name` is that of its directory."""

    name: str
    packing: str
    pretrain: Pretrain


def packings(recipe: AblationRecipe) -> tuple[str, ...]:
    """List the packing formats that stores are needed for, the recipe's own first."""
    own = recipe.pack.format
    others = FORMATS if "formats" in recipe.ablation.tables else ()
    return (own, *(each for each in others if each != own))


def list_settings(recipe: AblationRecipe, row_tokens: Mapping[str, float]) -> list[Setting]:
    """List the lines of all tables; `row_tokens` are the mean tokens of a row by packing."""
    ablation, base, own = recipe.ablation, recipe.pretrain, recipe.pack.format
    settings = []
    if "masking" in ablation.tables:
        static = _changed(base, mask_copies=ablation.mask_copies)
        settings += [
            Setting("masking", "static", own, static),
            Setting("masking", "dynamic", own, _changed(base, mask_copies=None)),
        ]
    if "formats" in ablation.tables:
        tokens = base.batch_sequences * row_tokens["full-sentences"]
        for packing in FORMATS:
            rows = max(1, round(tokens / row_tokens[packing]))
            changed = _changed(base, mask_copies=None, batch_sequences=rows)
            settings.append(Setting("formats", packing, packing, changed))
    if "batches" in ablation.tables:
        for name, batch in zip(BATCHES, ablation.batches, strict=True):
            settings.append(Setting("batches", name, own, _with_batch(base, batch)))
    return settings


def _with_batch(base: Pretrain, batch: BatchSetting) -> Pretrain:
    """Train on as many sequences as the base does, in batches of another size."""
    steps = max(1, round(base.max_steps * base.batch_sequences / batch.sequences))
    return _changed(
        base,
        batch_sequences=batch.sequences,
        learning_rate=batch.learning_rate,
        max_steps=steps,
        warmup_steps=round(base.warmup_steps * steps / base.max_steps),
        mask_copies=None,
    )


def _changed(base: Pretrain, **changes: int | float | None) -> Pretrain:
    return Pretrain.model_validate(base.model_dump() | changes)


def check_passes(recipe: AblationRecipe, rows: int) -> None:
    """Refuse static masks that never come back: they would be dynamic ones."""
    if "masking" not in recipe.ablation.tables:
        return
    passes = recipe.pretrain.max_steps * recipe.pretrain.batch_sequences / rows
    if passes <= recipe.ablation.mask_copies:
        raise ValueError(
            f"ablation.mask_copies is {recipe.ablation.mask_copies}, but the runs pass over the "
            f"{rows:,} rows {passes:.1f} times: static masks would never come back; lower it, or "
            "raise pretrain.max_steps (the paper has 10 copies in 40 passes)"
        )


def run_of(setting: Setting, seed: int, snapshot: str) -> Run:
    """Name the run of a setting by what determines it; `snapshot` is its store's fingerprint."""
    config = _changed(setting.pretrain, seed=seed)
    meaning = {
        "version": VERSION,
        "snapshot": snapshot,
        "pretrain": config.model_dump(mode="json", exclude=set(_FREE)),
    }
    digest = hashlib.sha256(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS)).hexdigest()
    masks = f"-copies{config.mask_copies}" if config.mask_copies else ""
    name = f"{setting.packing}-batch{config.batch_sequences}{masks}-seed{seed}-{digest[:12]}"
    return Run(name, setting.packing, config)


def list_runs(
    settings: Sequence[Setting], seeds: Sequence[int], snapshots: Mapping[str, str]
) -> list[Run]:
    """List the runs of all settings once, seed by seed, so that a part of them is comparable."""
    found = [
        run_of(setting, seed, snapshots[setting.packing]) for seed in seeds for setting in settings
    ]
    return list({run.name: run for run in found}.values())
