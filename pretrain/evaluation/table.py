"""The table of an evaluation for the terminal: a block a task, a line for each compared."""

import math
from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.table import Table

from pretrain.evaluation.baselines import Baseline
from pretrain.evaluation.protocol import Entry, Spread
from pretrain.evaluation.report import Report, further_scores, misfits, tell_sizes, verdicts
from pretrain.evaluation.tasks import Task

_WIDTH = 110  # of a terminal, where none tells


def show_report(report: Report) -> str:
    """Return the tables of all tasks, scores as percent."""
    out = StringIO()
    # Names are the user's: what looks like markup in them is not.
    console = Console(file=out, width=_WIDTH, markup=False, emoji=False)
    for task in report.tasks:
        console.print(f"{task.name} ({task.kind}; {tell_sizes(report.sizes[task.name])})")
        console.print(_table(report, task))
        for note in [*_drops(report, task), *misfits(report, task)]:
            console.print(note)
    for line in verdicts(report):
        console.print(line)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _table(report: Report, task: Task) -> Table:
    table = Table()
    # The metric that selects comes first of each set's: the page has the others.
    further = further_scores(report, task)[:: len(task.metrics)]
    table.add_column("")
    for metric in task.metrics:
        table.add_column(metric, justify="right")
    for title, _ in further:
        table.add_column(title, justify="right")
    table.add_column("grid: rate, batch, best epoch")
    for entry in report.entries:
        if entry.task == task.name:
            table.add_row(*_entry_row(entry, task, further))
    for baseline in report.baselines:
        if baseline.task == task.name:
            table.add_row(*_baseline_row(baseline, task, further))
    return table


def _entry_row(entry: Entry, task: Task, further: Sequence[tuple[str, str]]) -> list[str]:
    cells = [show_spread(entry.validation.get(metric)) for metric in task.metrics]
    cells += [show_spread(entry.test.get(name)) for _, name in further]
    return [entry.contestant, *cells, describe_winner(entry)]


def describe_winner(entry: Entry) -> str:
    """Say which cell of the grid won, when its runs were best, and how many diverged."""
    given = entry.winner.hyperparameters
    epochs = [result.best_epoch for result in entry.winner.results]
    known = sorted(epoch + 1 for epoch in epochs if epoch is not None)
    when = f"{known[0]}-{known[-1]}" if known and known[0] < known[-1] else str(*known[:1])
    lost = sum(result.diverged for result in entry.winner.results)
    told = f"{given.learning_rate:g}, {given.batch_size}, {when or 'none'} of {given.epochs}"
    return told + (f"; {lost} diverged" if lost else "")


def _baseline_row(baseline: Baseline, task: Task, further: Sequence[tuple[str, str]]) -> list[str]:
    cells = [percent((baseline.validation or {}).get(metric)) for metric in task.metrics]
    cells += [percent((baseline.test or {}).get(name)) for _, name in further]
    return [baseline.name, *cells, baseline.reason or ""]


def show_spread(spread: Spread | None) -> str:
    """Show the median in percent, and the least and greatest of several seeds."""
    if spread is None:
        return "-"
    shown = percent(spread.median)
    if len(spread.values) == 1:
        return shown
    return f"{shown} ({percent(spread.low)} to {percent(spread.high)})"


def percent(value: float | None) -> str:
    """Show a share in percent; what is absent or no number is a dash."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def _drops(report: Report, task: Task) -> list[str]:
    sizes = report.sizes[task.name]
    lines = [
        f"{task.name}: {count:,} of {split} dropped: {reason}"
        for split, reasons in sizes.drops.items()
        for reason, count in reasons.items()
    ]
    return lines + [f"  {place}" for place in sizes.dropped if lines]
