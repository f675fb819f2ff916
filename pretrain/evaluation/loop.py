"""The training loop of fine-tuning: one task, or several on shared weights, to the best epoch.

Step k is a function of (seed, k): the batches of an epoch follow from seed and epoch, and the
generator of dropout is seeded anew at every step. So a run that is killed goes on from weights,
moments and a count, and ends with the same bits. On a GPU some sums of the backward pass have no
fixed order, so there the last bits may differ.

Batches hold inputs of about one length: shuffled inputs are cut into groups of 50 batches, sorted
by length within, cut into batches, and the batches shuffled again. Little is padding then. AdamW,
linear warmup and decay, and the best epoch by validation, as in the RoBERTa paper, section 5.1.
"""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from corpus.section import Section
from pretrain.evaluation.features import Feature, collate
from pretrain.evaluation.predictions import Prediction, decode
from pretrain.evaluation.prepared import Prepared, splits_of
from pretrain.evaluation.scores import details, score
from pretrain.evaluation.states import Progress, restore, save
from pretrain.evaluation.tasks import Task
from pretrain.flops import has_bf16

# Batches that are sorted by length together: enough that padding is a few percent, few enough that
# batches stay mixed. As in transformers' LengthGroupedSampler.
_BATCHES_A_GROUP = 50
# Tokens of a forward pass without gradients: guess, a few hundred megabytes of activations at base.
_TOKENS_A_PASS = 16_384
# A killed run loses this much at most, and a shorter one writes no state at all. Guess.
STATE_EVERY_SECONDS = 120.0
_CURVE_POINTS = 100  # of the training loss: what a picture can show


class Hyperparameters(Section):
    """What a run of fine-tuning is told; the defaults are those of the RoBERTa paper's GLUE."""

    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate")
    batch_size: int = Field(16, ge=1, description="inputs a step")
    epochs: int = Field(10, ge=1, description="passes over the training examples")
    warmup_fraction: float = Field(0.06, ge=0, lt=1, description="share of steps that warm up")
    weight_decay: float = Field(0.1, ge=0, description="on matrices alone")
    # fairseq, examples/roberta/README.glue.md
    adam_betas: tuple[float, float] = Field((0.9, 0.98), description="decay of both moments")
    adam_epsilon: float = Field(1e-6, gt=0, description="added to the root of the second moment")
    max_grad_norm: float | None = Field(None, gt=0, description="clip to it; absent: never")
    dropout: float | None = Field(None, ge=0, lt=1, description="absent: the checkpoint's")
    patience: int | None = Field(
        None, ge=1, description="end after so many epochs without a better score; absent: never"
    )
    train_examples: int | None = Field(
        None, ge=1, description="learn from so many only, drawn alike for every seed"
    )


@dataclass(frozen=True)
class Job:
    """What `learn` needs: a model a task (they may share weights), and where state may lie."""

    models: tuple[nn.Module, ...]
    tasks: tuple[Prepared, ...]
    hyperparameters: Hyperparameters
    seed: int
    device: torch.device
    directory: str


Batch = tuple[int, tuple[int, ...]]  # number of the task, numbers of its features


def seed_of(*parts: object) -> int:
    """Return a seed for torch that differs wherever a part does."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little") >> 1


def learn(job: Job) -> tuple[Progress, dict[str, Tensor]]:
    """Train to the end; return how it went and the trained weights of the best epoch."""
    for model in job.models:
        model.to(job.device)
    weights = trained(job.models)
    inputs = [_learnable(part, job.hyperparameters.train_examples) for part in job.tasks]
    optimizer = _optimizer(weights, job.hyperparameters)
    progress, best = restore(job.directory, weights, optimizer)
    steps = len(_batches(inputs, job, 0))
    every = max(1, steps * job.hyperparameters.epochs // _CURVE_POINTS)
    start = saved = time.monotonic()
    for epoch in range(len(progress.scores), job.hyperparameters.epochs):
        if is_over(progress, job.hyperparameters.patience):
            break
        for batch in _batches(inputs, job, epoch)[progress.step - epoch * steps :]:
            loss = _step(job, inputs, batch, optimizer, progress.step / steps)
            progress = _note(progress, loss, every)
            now = time.monotonic()
            if now - saved > STATE_EVERY_SECONDS:
                elapsed = progress.seconds + now - start
                reached = progress.model_copy(update={"seconds": elapsed})
                save(job.directory, reached, weights, optimizer, best)
                saved = now
            if progress.diverged:
                break
        if progress.diverged or not _is_finite(progress, weights):
            progress = progress.model_copy(update={"diverged": True})
            break
        progress, is_best = _validate(job, progress)
        if is_best:
            best = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
    elapsed = progress.seconds + time.monotonic() - start
    return progress.model_copy(update={"seconds": elapsed}), best


def trained(models: Sequence[nn.Module]) -> dict[str, nn.Parameter]:
    """Name the weights that learn, each once: shared ones belong to the first model."""
    named: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for number, model in enumerate(models):
        for name, weight in model.named_parameters():
            if weight.requires_grad and id(weight) not in seen:
                seen.add(id(weight))
                named[f"{number}.{name}"] = weight
    return named


def is_over(progress: Progress, patience: int | None) -> bool:
    """Tell whether a run ends early."""
    since = len(progress.scores) - 1 - (progress.best_epoch or 0)
    return progress.diverged or (patience is not None and since >= patience)


def selecting(job_tasks: Sequence[Task], scores: Sequence[Mapping[str, float]]) -> float:
    """Return what decides between epochs and runs: the first metric, its mean over tasks."""
    values = [each[task.metrics[0]] for task, each in zip(job_tasks, scores, strict=True)]
    mean = sum(values) / len(values)
    return mean if math.isfinite(mean) else -math.inf


def _learnable(part: Prepared, at_most: int | None) -> list[Feature]:
    features = [feature for feature in part.train.features if feature.labels]
    if at_most is not None:
        count = len(part.data.train.examples)
        ranks = np.random.default_rng(0).permutation(count)
        features = [feature for feature in features if ranks[feature.example] < at_most]
    return features


def _batches(inputs: Sequence[Sequence[Feature]], job: Job, epoch: int) -> list[Batch]:
    """Return the batches of an epoch over all tasks, mixed."""
    size = job.hyperparameters.batch_size
    batches: list[Batch] = []
    for number, features in enumerate(inputs):
        lengths = np.array([feature.length for feature in features])
        order = epoch_order(lengths, size, (job.seed, epoch, number))
        batches += [(number, tuple(batch)) for batch in order]
    if len(inputs) > 1:
        mixed = np.random.default_rng((job.seed, epoch, len(inputs))).permutation(len(batches))
        batches = [batches[place] for place in mixed]
    return batches


def epoch_order(
    lengths: NDArray[np.int64], batch_size: int, seed: tuple[int, ...]
) -> list[list[int]]:
    """Deal inputs into batches of about one length; each input once, ceil(n / size) batches."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(lengths))
    group = batch_size * _BATCHES_A_GROUP
    batches = []
    for start in range(0, len(order), group):
        some = order[start : start + group]
        some = some[np.argsort(lengths[some], kind="stable")]
        batches += [some[at : at + batch_size].tolist() for at in range(0, len(some), batch_size)]
    return [batches[place] for place in generator.permutation(len(batches))]


def _optimizer(
    weights: Mapping[str, nn.Parameter], hyperparameters: Hyperparameters
) -> torch.optim.Optimizer:
    matrices = [weight for weight in weights.values() if weight.ndim > 1]
    vectors = [weight for weight in weights.values() if weight.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": hyperparameters.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=hyperparameters.learning_rate,
        betas=hyperparameters.adam_betas,
        eps=hyperparameters.adam_epsilon,
        fused=True,
    )


def rate_at(passes: float, hyperparameters: Hyperparameters) -> float:
    """Return the learning rate after so many passes: linear up, then linear down to 0."""
    share, warmup = passes / hyperparameters.epochs, hyperparameters.warmup_fraction
    up = share / warmup if share < warmup else 1.0
    return hyperparameters.learning_rate * min(up, (1 - share) / (1 - warmup))


def _step(
    job: Job,
    inputs: Sequence[Sequence[Feature]],
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    passes: float,
) -> float:
    number, chosen = batch
    model, part = job.models[number], job.tasks[number]
    torch.manual_seed(seed_of("dropout", job.seed, number, *chosen, passes))
    model.train()
    features = [inputs[number][at] for at in chosen]
    given = collate(part.task, features, part.tokenizer.pad_token_id)
    with _precision(job.device):
        loss = model(**{name: value.to(job.device) for name, value in given.items()}).loss
    loss.backward()
    limit = job.hyperparameters.max_grad_norm
    if limit is not None:
        shared = [weight for group in optimizer.param_groups for weight in group["params"]]
        nn.utils.clip_grad_norm_(shared, limit)
    for group in optimizer.param_groups:
        group["lr"] = rate_at(passes, job.hyperparameters)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.item())


def _is_finite(progress: Progress, weights: Mapping[str, Tensor]) -> bool:
    finite = all(bool(torch.isfinite(weight).all()) for weight in weights.values())
    return finite and math.isfinite(sum(progress.pending))


def _precision(device: torch.device) -> AbstractContextManager[object]:
    """Compute in bf16 where the device is made for it; weights stay fp32."""
    if device.type == "cuda" and has_bf16(device):
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def _note(progress: Progress, loss: float, every: int) -> Progress:
    """Count a step; every so many, make a point of the curve."""
    step, pending, losses = progress.step + 1, (*progress.pending, loss), progress.losses
    diverged = progress.diverged
    if len(pending) == every:
        mean = sum(pending) / every
        diverged, pending = not math.isfinite(mean), ()
        losses = losses if diverged else (*losses, (step, mean))
    return progress.model_copy(
        update={"step": step, "pending": pending, "losses": losses, "diverged": diverged}
    )


def _validate(job: Job, progress: Progress) -> tuple[Progress, bool]:
    """Score an epoch's end; tell whether it is the best so far."""
    scores, described = [], []
    for model, part in zip(job.models, job.tasks, strict=True):
        examples, labels = part.data.validation.examples, part.data.labels
        predictions = predict(model, part, job.device)
        scores.append(score(part.task, labels, examples, predictions))
        described.append(details(part.task, labels, examples, predictions))
    tasks, best = [part.task for part in job.tasks], progress.best_epoch
    is_best = best is None or selecting(tasks, scores) > selecting(tasks, progress.scores[best])
    changes: dict[str, Any] = {"scores": (*progress.scores, tuple(scores))}
    if is_best:
        changes |= {"best_epoch": len(progress.scores), "details": tuple(described)}
    return progress.model_copy(update=changes), is_best


def predict(
    model: nn.Module, part: Prepared, device: torch.device, split: str = "validation"
) -> list[Prediction]:
    """Predict a split of a task."""
    encoded, examples = part.encoded[split], splits_of(part.data)[split].examples
    pad_id = part.tokenizer.pad_token_id
    outputs = logits_of(model, part.task, encoded.features, pad_id, device)
    return decode(part.task, part.data.labels, examples, encoded, outputs)


@torch.inference_mode()
def logits_of(
    model: nn.Module, task: Task, features: Sequence[Feature], pad_id: int, device: torch.device
) -> list[NDArray[np.float32]]:
    """Run a model over features, longest first; return the logits of each in the given order."""
    model.eval()
    found: dict[int, NDArray[np.float32]] = {}
    for batch in _passes(features):
        given = collate(task, [features[at] for at in batch], pad_id)
        for name in ("labels", "start_positions", "end_positions"):
            given.pop(name, None)
        with _precision(device):
            result = model(**{name: value.to(device) for name, value in given.items()})
        if task.kind == "answering":
            logits = torch.stack((result.start_logits, result.end_logits), dim=1)
        else:
            logits = result.logits
        found |= zip(batch, logits.float().cpu().numpy(), strict=True)
    return [found[at] for at in range(len(features))]


def _passes(features: Sequence[Feature]) -> Iterator[list[int]]:
    """Cut features, most options and longest first, where a pass would hold too many tokens.

    All of a pass have as many options.
    """
    rows = [len(feature.input_ids) for feature in features]
    order = sorted(range(len(features)), key=lambda at: (-rows[at], -features[at].length))
    while order:
        first = order[0]
        count = max(1, _TOKENS_A_PASS // (features[first].length * rows[first]))
        alike = [at for at in order[:count] if rows[at] == rows[first]]
        yield alike
        order = order[len(alike) :]
