"""One run of fine-tuning: from a checkpoint, tasks, hyperparameters and a seed to its scores.

A run lies in a directory named by a hash of all that determines it: weights and tokenizer of the
checkpoint, the examples, hyperparameters, seed, versions of this code and of the libraries. So it
is never done twice, whoever asks for it, and anything that changes a result makes it another run.
Its `result.json` is written last; until then a state (states.py) lets it go on.
"""

import hashlib
import importlib.metadata
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch
from pydantic import ConfigDict, Field
from torch import Tensor, nn

from corpus.files import read_bytes, remove, write_bytes, writing
from corpus.section import Section
from pretrain.evaluation.adapters import Adapter, add_adapter
from pretrain.evaluation.fits import Fit
from pretrain.evaluation.heads import identity, open_model
from pretrain.evaluation.loop import Hyperparameters, Job, learn, predict, seed_of, trained
from pretrain.evaluation.multitask import share
from pretrain.evaluation.prepared import Prepared, prepare, task_identity
from pretrain.evaluation.scores import score
from pretrain.evaluation.states import clear
from pretrain.evaluation.tasks import Task, score_name
from pretrain.tensors import read_tensors, write_tensors

logger = logging.getLogger(__name__)

# Raised by hand whenever reading, encoding, training, decoding or scoring gives other results.
VERSION = 2
_LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "numpy")
_RESULT, _WEIGHTS = "result.json", "weights.safetensors"
_FINGERPRINT_DIGITS = 32  # of a SHA-256, half of it: collisions are beyond chance


class Settings(Section):
    """What else determines a run, beside checkpoint, tasks, hyperparameters and seed."""

    random_weights: bool = Field(False, description="the checkpoint's architecture, drawn anew")
    adapter: Adapter | None = Field(None, description="learn these few weights only")
    threads: int = Field(1, ge=1, description="CPU threads: sums in another order round otherwise")


class Run(Section):
    """One run; with several tasks they share their encoder."""

    checkpoint: str
    tasks: tuple[Task, ...] = Field(min_length=1)
    hyperparameters: Hyperparameters
    seed: int = Field(ge=0)
    settings: Settings = Settings()


class Result(Section):
    """What came out for one task; scores are of the validation examples, epoch by epoch.

    Of a run on several tasks, `best_epoch` (from 0) is the one best for all of them together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    fingerprint: str
    task: str
    seed: int
    hyperparameters: Hyperparameters
    metric: str = Field(description="the metric that selects")
    scores: tuple[dict[str, float], ...]
    best_epoch: int | None = Field(description="absent where no epoch could be scored")
    test: dict[str, float] | None = Field(
        description="of the best epoch, on the sets that nothing is chosen by; those of a set of "
        "`also` have its name before them"
    )
    fits: dict[str, Fit] = Field({}, description="what of the examples did not fit, by split")
    details: dict[str, Any]
    losses: tuple[tuple[int, float], ...] = Field(description="step and mean training loss")
    diverged: bool
    steps: int
    seconds: float
    parameters: int
    trained_parameters: int
    checksum: str | None = Field(description="of the weights file, the best epoch's")

    @property
    def best(self) -> dict[str, float] | None:
        """Scores of the best epoch."""
        return None if self.best_epoch is None else self.scores[self.best_epoch]

    @property
    def value(self) -> float:
        """The score that selects; below all others where there is none."""
        found = math.nan if self.best is None else self.best[self.metric]
        return found if math.isfinite(found) else -math.inf


class _Results(Section):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")

    results: tuple[Result, ...]


def fine_tune(
    checkpoint: str,
    task: Task,
    hyperparameters: Hyperparameters,
    seed: int,
    out: str,
    settings: Settings | None = None,
) -> Result:
    """Fine-tune a checkpoint on one task, or return what an equal run gave; runs lie in `out`."""
    run = Run(
        checkpoint=checkpoint,
        tasks=(task,),
        hyperparameters=hyperparameters,
        seed=seed,
        settings=settings or Settings(),
    )
    return perform(run, out)[0]


def perform(run: Run, out: str, with_weights: bool = False) -> tuple[Result, ...]:
    """Do a run unless its results are there; `with_weights` does it again if they are gone."""
    found = find(run, out)
    directory = str(Path(out) / fingerprint(run))
    if found is not None and (not with_weights or (Path(directory) / _WEIGHTS).exists()):
        return found
    with alone(run.settings.threads):
        results = _perform(run, directory)
    write_bytes(
        str(Path(directory) / _RESULT), _Results(results=results).model_dump_json().encode()
    )
    clear(directory)
    return results


def find(run: Run, out: str) -> tuple[Result, ...] | None:
    """Return the results of a run that was done before."""
    path = Path(out) / fingerprint(run) / _RESULT
    if not path.exists():
        return None
    try:
        results = _Results.model_validate_json(read_bytes(str(path))).results
    except ValueError as error:
        raise ValueError(f"{path} is damaged, delete its directory: {error}") from None
    # The same data may have two names.
    return tuple(
        result.model_copy(update={"task": task.name})
        for result, task in zip(results, run.tasks, strict=True)
    )


def fingerprint(run: Run) -> str:
    """Return the hash of all that determines a run."""
    determining = {
        "version": VERSION,
        "checkpoint": identity(run.checkpoint, run.settings.random_weights),
        "tasks": [task_identity(task) for task in run.tasks],
        "hyperparameters": run.hyperparameters.model_dump(mode="json"),
        "seed": run.seed,
        "settings": run.settings.model_dump(mode="json"),
        "device": _device_name(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    text = orjson.dumps(determining, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()[:_FINGERPRINT_DIGITS]


def make_models(run: Run, labels: Sequence[Sequence[str]]) -> tuple[nn.Module, ...]:
    """Open the checkpoint with a head for each task, drawn by the run's seed; encoders shared."""
    torch.manual_seed(seed_of("weights", run.seed))
    models = share(
        [
            open_model(
                run.checkpoint,
                task,
                names,
                run.hyperparameters.dropout,
                run.settings.random_weights,
            )
            for task, names in zip(run.tasks, labels, strict=True)
        ]
    )
    if run.settings.adapter is None:
        return models
    return tuple(
        add_adapter(model, run.settings.adapter, task.kind)
        for model, task in zip(models, run.tasks, strict=True)
    )


def trained_models(run: Run, out: str) -> tuple[tuple[nn.Module, ...], tuple[Prepared, ...]]:
    """Return the models of a run with the weights of its best epoch, doing it if need be."""
    results = perform(run, out, with_weights=True)
    if results[0].checksum is None:
        raise ValueError(f"a run on {results[0].task} diverged, it has no weights to save")
    parts = _prepared(run)
    with alone(run.settings.threads):
        models = make_models(run, [part.data.labels for part in parts])
        path = Path(out) / fingerprint(run) / _WEIGHTS
        _put(models, read_tensors(str(path), results[0].checksum))
    return models, parts


def _prepared(run: Run) -> tuple[Prepared, ...]:
    adapter = run.settings.adapter
    taken = adapter.positions if adapter else 0
    return tuple(prepare(task, run.checkpoint, taken) for task in run.tasks)


def drop_weights(run: Run, out: str) -> None:
    """Delete the weights of a run; its results stay."""
    remove(str(Path(out) / fingerprint(run) / _WEIGHTS))


def _perform(run: Run, directory: str) -> tuple[Result, ...]:
    parts = _prepared(run)
    models = make_models(run, [part.data.labels for part in parts])
    job = Job(models, parts, run.hyperparameters, run.seed, _device(), directory)
    progress, best = learn(job)
    digest: str | None = None
    tests: list[dict[str, float] | None] = [None] * len(parts)
    if progress.best_epoch is not None:
        _put(models, best)
        with writing(str(Path(directory) / _WEIGHTS)) as stream:
            digest = write_tensors(stream, best)
        scores = progress.scores[progress.best_epoch]
        tests = [_test(*each, job.device) for each in zip(models, parts, scores, strict=True)]
    return tuple(
        Result(
            fingerprint=Path(directory).name,
            task=part.task.name,
            seed=run.seed,
            hyperparameters=run.hyperparameters,
            metric=part.task.metrics[0],
            scores=tuple(epoch[number] for epoch in progress.scores),
            best_epoch=progress.best_epoch,
            test=tests[number],
            fits=part.fits,
            details=progress.details[number] if progress.details else {},
            losses=progress.losses,
            diverged=progress.diverged,
            steps=progress.step,
            seconds=progress.seconds,
            parameters=sum(weight.numel() for weight in models[number].parameters()),
            trained_parameters=sum(weight.numel() for weight in best.values()),
            checksum=digest,
        )
        for number, part in enumerate(parts)
    )


def _test(
    model: nn.Module, part: Prepared, scores: dict[str, float], device: torch.device
) -> dict[str, float] | None:
    """Score what nothing is chosen by; a threshold is the one that was best for validation."""
    threshold = threshold_of(part.task, scores)
    found: dict[str, float] = {}
    for name, split in part.data.scored.items():
        predictions = predict(model, part, device, name)
        values = score(part.task, part.data.labels, split.examples, predictions, threshold)
        found |= {score_name(name, metric): value for metric, value in values.items()}
    return found or None


def threshold_of(task: Task, scores: dict[str, float]) -> float | None:
    """Return the threshold of no answer that is best for the metric that selects."""
    best = "best_exact_match" if "exact_match" in task.metrics[0] else "best_f1"
    return scores.get(f"{best}_threshold")


def _put(models: Sequence[nn.Module], best: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in trained(models).items():
            weight.copy_(best[name])


@contextmanager
def alone(threads: int) -> Iterator[None]:
    """Give a run its number of threads, and the caller its generator back."""
    before = torch.get_num_threads()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices=list(devices)):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
