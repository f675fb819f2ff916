"""The page of an evaluation: a table for all tasks, then each task with curves and reports.

It opens without a network and runs no script. Shown of each checkpoint are its best cell of the
grid with all seeds, every cell's median, and the details of its best run. Where a checkpoint does
not beat random weights or TF-IDF the page says so.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from pretrain.evaluation.drawing import (
    Curve,
    Markup,
    chart,
    charts,
    confusion,
    heading,
    page,
    paragraph,
    table,
)
from pretrain.evaluation.protocol import Entry
from pretrain.evaluation.report import Report, further_scores, misfits, tell_sizes, verdicts
from pretrain.evaluation.table import describe_winner, percent, show_spread
from pretrain.evaluation.tasks import Task

_WIDEST_CONFUSION = 30  # labels; a wider matrix is no picture any more


def render(report: Report) -> str:
    """Return the page as HTML."""
    sections = [("All tasks", _overview(report))]
    sections += [(task.name, _task(report, task)) for task in report.tasks]
    return page("Evaluation", sections)


def _overview(report: Report) -> Markup:
    names = list(dict.fromkeys(entry.contestant for entry in report.entries))
    baselines = list(dict.fromkeys(baseline.name for baseline in report.baselines))
    found = {(entry.contestant, entry.task): entry for entry in report.entries}
    simple = {(baseline.name, baseline.task): baseline for baseline in report.baselines}
    rows = []
    for task in report.tasks:
        metric = task.metrics[0]
        row = [task.name, metric]
        row += [show_spread(found[name, task.name].validation.get(metric)) for name in names]
        row += [
            percent((simple[name, task.name].validation or {}).get(metric)) for name in baselines
        ]
        rows.append(row)
    caption = "Validation scores in percent: median over seeds (least to greatest)"
    return Markup(
        table(caption, ["task", "metric", *names, *baselines], rows)
        + "".join(paragraph(line) for line in verdicts(report))
        + paragraph(
            "Cell of the grid and epoch were chosen by these very examples, so the scores flatter; "
            "those on test examples, where a task has them, do not."
        )
    )


def _task(report: Report, task: Task) -> Markup:
    entries = [entry for entry in report.entries if entry.task == task.name]
    sizes = report.sizes[task.name]
    parts = [
        paragraph(f"{task.kind}; {tell_sizes(sizes)}{_drops(report, task)}"),
        *(paragraph(line) for line in misfits(report, task)),
        _scores(report, task, entries),
        charts(_curves(task, entries)),
    ]
    for entry in entries:
        parts += [*_grid(entry, task), *_details(report, entry)]
    return Markup("\n".join(parts))


def _drops(report: Report, task: Task) -> str:
    drops = report.sizes[task.name].drops
    told = [
        f"{count:,} of {split} dropped ({reason})"
        for split, reasons in drops.items()
        for reason, count in reasons.items()
    ]
    return "; " + ", ".join(told) if told else ""


def _scores(report: Report, task: Task, entries: Sequence[Entry]) -> Markup:
    metrics, further = task.metrics, further_scores(report, task)
    head = ["", *metrics, *[title for title, _ in further], "best cell"]
    rows = []
    for entry in entries:
        row = [entry.contestant, *[show_spread(entry.validation.get(name)) for name in metrics]]
        row += [show_spread(entry.test.get(name)) for _, name in further]
        rows.append([*row, describe_winner(entry)])
    for baseline in report.baselines:
        if baseline.task == task.name:
            row = [baseline.name, *[percent((baseline.validation or {}).get(n)) for n in metrics]]
            row += [percent((baseline.test or {}).get(name)) for _, name in further]
            rows.append([*row, baseline.reason or ""])
    return table("Scores in percent", head, rows)


def _curves(task: Task, entries: Sequence[Entry]) -> Iterator[Markup]:
    metric = task.metrics[0]
    by_epoch = [
        Curve(entry.contestant, _finite(enumerate((s[metric] for s in result.scores), 1)))
        for entry in entries
        for result in entry.winner.results
    ]
    yield chart(f"{metric} by epoch, every seed, percent", "epoch", by_epoch, percent=True)
    losses = [
        Curve(entry.contestant, _finite(result.losses))
        for entry in entries
        for result in entry.winner.results
    ]
    yield chart("training loss, every seed", "step", losses)


def _finite(points: Iterable[tuple[int, float]]) -> tuple[tuple[float, float], ...]:
    pairs = [(float(x), y) for x, y in points]
    return tuple(pair for pair in pairs if math.isfinite(pair[1]))


def _grid(entry: Entry, task: Task) -> Iterator[Markup]:
    if len(entry.cells) < 2:
        return
    rows = []
    for cell in entry.cells:
        given = cell.hyperparameters
        values = [percent(result.value) for result in cell.results]
        lost = sum(result.diverged for result in cell.results)
        rows.append(
            [
                f"{given.learning_rate:g}, {given.batch_size}",
                percent(cell.value),
                ", ".join(values),
                f"{lost} diverged" if lost else "",
            ]
        )
    yield heading(f"{entry.contestant}: the grid")
    head = ["rate, batch", "median", "seeds", ""]
    yield table(f"{task.metrics[0]} of every cell, percent", head, rows, entry.best_cell)


def _details(report: Report, entry: Entry) -> Iterator[Markup]:
    found, labels = entry.best.details, report.sizes[entry.task].labels
    if not found.get("classes"):
        return
    yield heading(f"{entry.contestant}: classes of its best run, seed {entry.best.seed}")
    rows = [
        [each["label"], percent(each["precision"]), percent(each["recall"]), percent(each["f1"]),
         f"{each['support']:,}"]
        for each in found["classes"]
    ]  # fmt: skip
    yield table("percent; support is a count", ["", "precision", "recall", "F1", "support"], rows)
    counts = found.get("confusion")
    if counts and len(labels) <= _WIDEST_CONFUSION:
        yield confusion(labels, counts)
