"""The protocol: every cell of the grid with every seed, the best cell by validation, its spread.

As in the RoBERTa paper, section 5.1: each run counts with its best epoch on the validation
examples, a cell with the median over its seeds, a checkpoint with its best cell. So a score on
validation is chosen among many and flatters; where a task has test examples, those of the chosen
runs are scored too, and nothing is chosen by them.

Runs have nothing to say to each other: they run side by side as Ray tasks, or one after another in
this process, with the same results. What was done before (tuning.py) is not done again. Weights
are kept only of runs that may yet be the best.
"""

import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
from pydantic import ConfigDict, Field

from corpus.section import Section
from pretrain.evaluation.fits import Fit
from pretrain.evaluation.loop import Hyperparameters
from pretrain.evaluation.recipe import Contestant, Evaluation, cells
from pretrain.evaluation.tasks import Task
from pretrain.evaluation.tuning import Result, Run, Settings, drop_weights, find, perform
from pretrain.launch import open_cluster

logger = logging.getLogger(__name__)

_RUNS = "runs"


class Spread(Section):
    """Scores over seeds: the median, and how far they lie apart."""

    median: float
    low: float
    high: float
    lower_quartile: float
    upper_quartile: float
    values: tuple[float, ...]


class Cell(Section):
    """One point of the grid with all its seeds, for one task."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")

    hyperparameters: Hyperparameters
    results: tuple[Result, ...]

    @property
    def value(self) -> float:
        """What decides between cells: the median over seeds of the metric that selects."""
        return statistics.median(result.value for result in self.results)


class Entry(Section):
    """What one checkpoint reached on one task."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")

    contestant: str
    task: str
    cells: tuple[Cell, ...]
    best_cell: int
    best_run: int
    validation: dict[str, Spread]
    test: dict[str, Spread]
    fits: dict[str, Fit] = Field({}, description="what of the examples did not fit, by split")

    @property
    def winner(self) -> Cell:
        """The best cell; of a run on several tasks the one best for all of them together."""
        return self.cells[self.best_cell]

    @property
    def best(self) -> Result:
        """The best run of the best cell."""
        return self.winner.results[self.best_run]


class Trial(Section):
    """One run of the protocol: whose it is, which cell of the grid."""

    contestant: Contestant
    cell: int
    run: Run


def trials(evaluation: Evaluation) -> list[Trial]:
    """List all runs: by contestant, tasks, cell, seed."""
    planned = []
    for contestant in evaluation.contestants:
        alone = [(task,) for task in evaluation.tasks]
        for tasks in [evaluation.tasks] if contestant.together else alone:
            for number, hyperparameters in enumerate(cells(evaluation, tasks[0])):
                planned += [
                    _trial(evaluation, contestant, tasks, (number, hyperparameters, seed))
                    for seed in evaluation.seeds
                ]
    return planned


def _trial(
    evaluation: Evaluation,
    contestant: Contestant,
    tasks: tuple[Task, ...],
    cell: tuple[int, Hyperparameters, int],
) -> Trial:
    number, hyperparameters, seed = cell
    settings = Settings(
        random_weights=contestant.random_weights,
        adapter=contestant.adapter,
        threads=evaluation.threads,
    )
    run = Run(
        checkpoint=contestant.path,
        tasks=tasks,
        hyperparameters=hyperparameters,
        seed=seed,
        settings=settings,
    )
    return Trial(contestant=contestant, cell=number, run=run)


def run_protocol(evaluation: Evaluation) -> tuple[Entry, ...]:
    """Do all runs that were not done yet; return what every checkpoint reached on every task."""
    planned = trials(evaluation)
    out = runs_directory(evaluation)
    done = {n: found for n, trial in enumerate(planned) if (found := find(trial.run, out))}
    missing = [number for number in range(len(planned)) if number not in done]
    logger.info("%d runs, %d of them done before", len(planned), len(done))
    for at, results in _perform_all(evaluation, [planned[n].run for n in missing], out):
        done[missing[at]] = results
        _log(planned[missing[at]], results, (len(done), len(planned)))
        _prune(planned, done, out)
    return tuple(_entries(planned, done))


def runs_directory(evaluation: Evaluation) -> str:
    """Return where the runs of an evaluation lie."""
    return f"{evaluation.output}/{_RUNS}"


def _perform_all(
    evaluation: Evaluation, runs: Sequence[Run], out: str
) -> Iterator[tuple[int, tuple[Result, ...]]]:
    if evaluation.workers == 1 or len(runs) < 2:
        yield from ((number, perform(run, out)) for number, run in enumerate(runs))
        return
    calls = [(run, out) for run in runs]
    workers = min(evaluation.workers, len(runs))
    yield from open_cluster().run_side_by_side(perform, calls, workers, evaluation.threads)


def _log(trial: Trial, results: Sequence[Result], counts: tuple[int, int]) -> None:
    for result in results:
        logger.info(
            "%d of %d: %s on %s, learning rate %g, batch %d, seed %d: %s %.4f in %.0f s",
            *counts,
            trial.contestant.name,
            result.task,
            result.hyperparameters.learning_rate,
            result.hyperparameters.batch_size,
            result.seed,
            result.metric,
            result.value,
            result.seconds,
        )


def _groups(planned: Sequence[Trial]) -> Iterator[list[int]]:
    """Give the numbers of the trials that compete with each other, cell after cell."""

    def group(number: int) -> tuple[str, str]:
        trial = planned[number]
        return trial.contestant.name, trial.run.tasks[0].name

    for _, numbers in groupby(range(len(planned)), key=group):
        yield list(numbers)


def _prune(planned: Sequence[Trial], done: Mapping[int, tuple[Result, ...]], out: str) -> None:
    """Delete the weights of runs that cannot be the best of their group any more.

    The best is the best run of the best cell; until a cell is complete, its best run may be it.
    """
    for group in _groups(planned):
        for number in _beaten(_by_cell(planned, group), done):
            drop_weights(planned[number].run, out)


def _beaten(by_cell: Sequence[list[int]], done: Mapping[int, tuple[Result, ...]]) -> Iterator[int]:
    """Give the runs of a group that others have beaten."""
    complete = [cell for cell in by_cell if all(number in done for number in cell)]
    best = max(complete, key=lambda cell: _median(done, cell), default=None)
    for cell in by_cell:
        finished = [number for number in cell if number in done]
        keep = max(finished, key=lambda number: _value(done[number]), default=None)
        is_beaten = cell in complete and cell is not best
        yield from (number for number in finished if number != keep or is_beaten)


def _by_cell(planned: Sequence[Trial], group: Sequence[int]) -> list[list[int]]:
    return [list(numbers) for _, numbers in groupby(group, key=lambda n: planned[n].cell)]


def _value(results: Sequence[Result]) -> float:
    return statistics.mean(result.value for result in results)


def _median(done: Mapping[int, tuple[Result, ...]], cell: Sequence[int]) -> float:
    return statistics.median(_value(done[number]) for number in cell)


def best_runs(evaluation: Evaluation, entries: Sequence[Entry]) -> Iterator[tuple[Contestant, Run]]:
    """Give the run to save of each contestant and task."""
    planned = trials(evaluation)
    chosen = {(entry.contestant, entry.task): entry for entry in entries}
    for group in _groups(planned):
        first = planned[group[0]]
        entry = chosen[first.contestant.name, first.run.tasks[0].name]
        number = _by_cell(planned, group)[entry.best_cell][entry.best_run]
        yield first.contestant, planned[number].run


def _entries(planned: Sequence[Trial], done: Mapping[int, tuple[Result, ...]]) -> Iterator[Entry]:
    for group in _groups(planned):
        by_cell = _by_cell(planned, group)
        best_cell = max(range(len(by_cell)), key=lambda n: _median(done, by_cell[n]))
        seeds = by_cell[best_cell]
        best_run = max(range(len(seeds)), key=lambda n: _value(done[seeds[n]]))
        first = planned[group[0]]
        for at, task in enumerate(first.run.tasks):
            yield Entry(
                contestant=first.contestant.name,
                task=task.name,
                cells=tuple(
                    Cell(
                        hyperparameters=planned[numbers[0]].run.hyperparameters,
                        results=tuple(done[number][at] for number in numbers),
                    )
                    for numbers in by_cell
                ),
                best_cell=best_cell,
                best_run=best_run,
                validation=_spreads([done[number][at].best for number in seeds]),
                test=_spreads([done[number][at].test for number in seeds]),
                fits=done[seeds[best_run]][at].fits,
            )


def _spreads(scores: Sequence[Mapping[str, float] | None]) -> dict[str, Spread]:
    """Sum up each metric over the runs that have it; a run that diverged has none."""
    known = [each for each in scores if each is not None]
    names = list(known[0]) if known else []
    return {name: spread([each[name] for each in known]) for name in names}


def spread(values: Sequence[float]) -> Spread:
    """Sum up values: quartiles by linear interpolation."""
    low, first, median, third, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return Spread(
        median=median,
        low=low,
        high=high,
        lower_quartile=first,
        upper_quartile=third,
        values=tuple(values),
    )
