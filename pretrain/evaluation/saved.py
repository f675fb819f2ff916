"""A fine-tuned model as a directory: `transformers` loads it, and it says what it is.

Beside the model, its tokenizer and the card lies `task.json`: kind of task, labels, limits and the
threshold of no answer, which `config.json` has no place for. LoRA and IA3 are merged into the
weights; prefix and prompt tuning stay adapters beside their checkpoint. A directory is written
beside its place and renamed, so it is whole or not there.
"""

import logging
import os
import shutil
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from corpus.files import write_bytes
from corpus.section import Section, explain_all
from pretrain.evaluation.adapters import merged
from pretrain.evaluation.examples import TaskData
from pretrain.evaluation.fits import tell_fits
from pretrain.evaluation.heads import quiet
from pretrain.evaluation.prepared import Prepared, read
from pretrain.evaluation.protocol import Entry, best_runs, runs_directory
from pretrain.evaluation.recipe import Evaluation, directory_name
from pretrain.evaluation.table import describe_winner, show_spread
from pretrain.evaluation.tasks import Task, score_name
from pretrain.evaluation.tuning import Result, Run, fingerprint, threshold_of, trained_models
from pretrain.quirks import import_deepspeed

logger = logging.getLogger(__name__)

RECORD = "task.json"
_CARD = "README.md"
_PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "answering": "question-answering",
    "choice": "multiple-choice",
}


class Saved(Section):
    """What a saved model is for."""

    fingerprint: str
    task: Task
    labels: tuple[str, ...]
    threshold: float | None = None
    checkpoint: str | None = None


def save_best(evaluation: Evaluation, entries: tuple[Entry, ...]) -> list[str]:
    """Save the best model of each checkpoint and task; drawn weights are not worth it."""
    found = {(entry.contestant, entry.task): entry for entry in entries}
    directories = []
    for contestant, run in best_runs(evaluation, entries):
        if contestant.random_weights:
            continue
        root = Path(evaluation.output) / "models" / directory_name(contestant.name)
        mine = [found[contestant.name, task.name] for task in run.tasks]
        if mine[0].best.checksum is None:
            logger.warning("%s diverged on %s: nothing to save", contestant.name, mine[0].task)
            continue
        directories += _save_run(run, runs_directory(evaluation), root, mine)
    return directories


def _save_run(run: Run, out: str, root: Path, entries: list[Entry]) -> list[str]:
    name = fingerprint(run)
    targets = [root / directory_name(task.name) for task in run.tasks]
    known = [read_saved(target) for target in targets]
    if any(saved is None or saved.fingerprint != name for saved in known):
        models, parts = trained_models(run, out)
        for model, part, target, entry in zip(models, parts, targets, entries, strict=True):
            _save(model, part, target, (run, entry, name))
        return [str(target) for target in targets]
    # More seeds or another grid may leave the best run what it was, but not what the card says.
    for saved, task, target, entry in zip(known, run.tasks, targets, entries, strict=True):
        assert saved is not None
        card = _card(saved.task, read(task), entry, run).encode()
        if (target / _CARD).read_bytes() != card:
            write_bytes(str(target / _CARD), card)
    return [str(target) for target in targets]


def read_saved(directory: Path) -> Saved | None:
    """Read what a directory's model is for; None where `evaluate` did not save it."""
    record = directory / RECORD
    try:
        return Saved.model_validate_json(record.read_bytes()) if record.exists() else None
    except ValidationError as error:
        what = "; ".join(explain_all(Saved, error))
        raise ValueError(
            f"{record} is damaged or of another version ({what}): delete {directory}, and let "
            "`python -m pretrain evaluate` save it anew"
        ) from None


def _save(model: nn.Module, part: Prepared, target: Path, made: tuple[Run, Entry, str]) -> None:
    run, entry, name = made
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    # In a container the process that was killed had our number too.
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    adapter = run.settings.adapter
    whole = model if adapter is None or not adapter.is_merged else merged(model)
    # transformers saves by way of accelerate, which imports it too, and not quietly.
    import_deepspeed()
    with quiet():
        whole.save_pretrained(aside)  # type: ignore[operator]
        whole.config.save_pretrained(aside)  # type: ignore[union-attr, operator]
    part.tokenizer.save_pretrained(aside)
    plain = part.task.model_copy(update={"train": (), "validation": (), "test": (), "also": {}})
    is_beside = adapter is not None and not adapter.is_merged
    saved = Saved(
        fingerprint=name,
        task=plain,
        labels=part.data.labels,
        threshold=threshold_of(part.task, entry.best.best or {}),
        checkpoint=str(Path(run.checkpoint).absolute()) if is_beside else None,
    )
    (aside / _CARD).write_bytes(_card(part.task, part.data, entry, run).encode())
    (aside / RECORD).write_text(saved.model_dump_json(indent=2))
    if target.exists():
        shutil.rmtree(target)
    aside.rename(target)
    logger.info("saved %s", target)


def _card(task: Task, data: TaskData, entry: Entry, run: Run) -> str:
    best, examples = entry.best, len(data.train.examples)
    learned = min(run.hyperparameters.train_examples or examples, examples)
    columns = ["", "validation", *data.scored]
    scores = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for metric in task.metrics:
        cells = [metric, show_spread(entry.validation.get(metric))]
        cells += [show_spread(entry.test.get(score_name(name, metric))) for name in data.scored]
        scores.append(f"| {' | '.join(cells)} |")
    rows = {
        "kind": task.kind,
        "labels": ", ".join(data.labels) or "none",
        "training examples": f"{learned:,}" + (f" of {examples:,}" if learned < examples else ""),
        "validation examples": f"{len(data.validation.examples):,}",
        "dropped while reading": f"{data.train.drops.total():,} of train",
        "base checkpoint": Path(run.checkpoint).name,
        "adapter": run.settings.adapter.kind if run.settings.adapter else "none, all weights",
        "learning rate, batch, epoch": describe_winner(entry),
        "seed": f"{best.seed}, the best of {len(entry.winner.results)}",
        "longest input": f"{task.max_length} tokens",
        "what did not fit": "; ".join(tell_fits(task, entry.fits)) or "nothing",
        "threshold of no answer": _threshold(task, best),
        "run": f"`{best.fingerprint}`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return _CARD_TEXT.format(
        pipeline=_PIPELINES[task.kind],
        task=task.name,
        kind=task.kind,
        metrics="\n".join(f"- {metric}" for metric in task.metrics),
        scores="\n".join(scores),
        table=table,
    )


def _threshold(task: Task, best: Result) -> str:
    threshold = threshold_of(task, best.best or {})
    return "none" if threshold is None else f"{threshold:.4f} (best on validation)"


_CARD_TEXT = """---
library_name: transformers
pipeline_tag: {pipeline}
tags:
- maskline
metrics:
{metrics}
---

# {task}: a model for {kind}, fine-tuned by maskline

## Scores in percent: median over seeds (least to greatest)

{scores}

Checkpoint, grid and epoch were chosen by the validation examples, so that those scores flatter. The
weights are those of the best seed on validation.

## What made it

| | |
|---|---|
{table}

It has the biases of the base checkpoint and of the task's examples, and was tried on nothing else.
"""
