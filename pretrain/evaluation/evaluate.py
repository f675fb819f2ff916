"""The command `evaluate`: from a recipe to a table, results.json, a page and saved models."""

import logging

from corpus.files import check_absolute_in_job, write_bytes
from pretrain.evaluation.baselines import run_baseline
from pretrain.evaluation.heads import check_checkpoint
from pretrain.evaluation.page import render
from pretrain.evaluation.prepared import read, splits_of
from pretrain.evaluation.protocol import run_protocol
from pretrain.evaluation.recipe import Evaluation
from pretrain.evaluation.report import Report, Sizes, as_json
from pretrain.evaluation.saved import save_best
from pretrain.evaluation.table import show_report
from pretrain.evaluation.tasks import Task

logger = logging.getLogger(__name__)


def run_evaluation(evaluation: Evaluation) -> str:
    """Do what a recipe asks; return what the terminal shows."""
    report = evaluate(evaluation)
    saved = save_best(evaluation, report.entries) if evaluation.save_models else []
    lines = [show_report(report), f"page: {evaluation.output}/report.html"]
    return "\n".join(lines + [f"model: {directory}" for directory in saved])


def evaluate(evaluation: Evaluation) -> Report:
    """Do all that a recipe asks and was not done before; write what was found."""
    check_absolute_in_job("output", evaluation.output)
    for contestant in evaluation.contestants:
        check_checkpoint(contestant.path, contestant.random_weights)
    sizes = {task.name: _sizes(task) for task in evaluation.tasks}
    names = [name for name in evaluation.baselines if name != "random"]
    out = f"{evaluation.output}/baselines"
    baselines = [run_baseline(name, task, out) for task in evaluation.tasks for name in names]
    report = Report(
        tasks=evaluation.tasks,
        sizes=sizes,
        entries=run_protocol(evaluation),
        baselines=tuple(baselines),
    )
    write_bytes(f"{evaluation.output}/results.json", as_json(report))
    write_bytes(f"{evaluation.output}/report.html", render(report).encode())
    return report


def _sizes(task: Task) -> Sizes:
    data = read(task)
    known = splits_of(data)
    for name, split in known.items():
        if split.drops:
            logger.warning("%s, %s: dropped %s", task.name, name, dict(split.drops))
    return Sizes(
        examples={name: len(split.examples) for name, split in known.items()},
        drops={name: dict(split.drops) for name, split in known.items()},
        dropped=tuple(place for split in known.values() for place in split.dropped),
        labels=data.labels,
    )
