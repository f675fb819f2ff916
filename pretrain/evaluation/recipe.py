"""The recipe of an evaluation: which checkpoints, which tasks, which grid, which seeds.

Where it does not say otherwise the grid is the RoBERTa paper's Table 10 for the kind of task. The
paper tags nothing: tagging takes GLUE's grid, which is an assumption.
"""

import re
from collections.abc import Sequence
from itertools import product
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from corpus.section import LocalDirectory, Location, Section, load_section
from pretrain.evaluation.adapters import Adapter
from pretrain.evaluation.loop import Hyperparameters
from pretrain.evaluation.tasks import Kind, Task, Tasks

Baseline = Literal["majority", "tfidf", "random"]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
RANDOM = "random weights"


class Contestant(Section):
    """A checkpoint, and how it is fine-tuned."""

    name: str = Field(min_length=1, description="what tables call it")
    path: Location = Field(description="directory that transformers loads")
    random_weights: bool = Field(False, description="its architecture, drawn anew")
    adapter: Adapter | None = Field(None, description="learn these few weights; absent: all")
    together: bool = Field(
        False, description="all tasks in one run, on a shared encoder and with one grid"
    )


class Grid(Section):
    """What is tried; every learning rate with every batch size. Absent keys: Table 10's."""

    model_config = ConfigDict(allow_inf_nan=False)

    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, min_length=1, description="peaks to try"
    )
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None, min_length=1, description="inputs a step, to try"
    )
    epochs: int | None = Field(None, ge=1, description="passes over the examples, at most")
    weight_decay: float | None = Field(None, ge=0, description="on matrices alone")
    warmup_fraction: float | None = Field(None, ge=0, lt=1, description="share of steps")
    max_grad_norm: float | None = Field(None, gt=0, description="gradients are clipped to it")
    dropout: float | None = Field(None, ge=0, lt=1, description="absent: the checkpoint's")
    patience: int | None = Field(None, ge=1, description="epochs without a better score")
    train_examples: int | None = Field(None, ge=1, description="learn from so many only")


_GLUE = Grid(learning_rates=(1e-5, 2e-5, 3e-5), batch_sizes=(16, 32), epochs=10, weight_decay=0.1)
TABLE_10: dict[Kind, Grid] = {
    "classification": _GLUE,
    "regression": _GLUE,
    "tagging": _GLUE,
    "answering": Grid(learning_rates=(1.5e-5,), batch_sizes=(48,), epochs=2, weight_decay=0.01),
    "choice": Grid(learning_rates=(1e-5,), batch_sizes=(16,), epochs=4, weight_decay=0.1),
}


class Evaluation(Section):
    """Everything an evaluation is made from."""

    output: LocalDirectory = Field(description="directory of runs, tables and saved models")
    checkpoints: tuple[Contestant, ...] = Field(
        min_length=1, description="what is compared; random weights take the first's shape"
    )
    tasks: Tasks = Field(min_length=1, description="a preset's name and what differs")
    grid: Grid = Field(Grid(), description="for all tasks")
    task_grids: dict[str, Grid] = Field({}, description="for a task by name, before `grid`")
    seeds: Seeds = Field((0, 1, 2, 3, 4), description="the paper has five")
    baselines: tuple[Baseline, ...] = Field(
        ("majority", "tfidf", "random"), description="what scores have to beat"
    )
    save_models: bool = Field(True, description="keep each checkpoint's best model of each task")
    workers: int = Field(1, ge=1, description="runs side by side, through Ray where more than one")
    threads: int = Field(1, ge=1, description="CPU threads of a run; part of what determines it")

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "Evaluation":
        for kind, names in (
            ("checkpoints", [each.name for each in self.contestants]),
            ("tasks", [task.name for task in self.tasks]),
            ("seeds", [str(seed) for seed in self.seeds]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"two {kind} are called {name}")
        if self.save_models:
            _check_directories("checkpoints", [each.name for each in self.checkpoints])
            _check_directories("tasks", [task.name for task in self.tasks])
        for name in self.task_grids:
            if name not in {task.name for task in self.tasks}:
                raise ValueError(f"task_grids names {name}, which is no task here")
        return self

    @model_validator(mode="after")
    def _tasks_together_have_one_grid(self) -> "Evaluation":
        name = next((each.name for each in self.checkpoints if each.together), None)
        first, *others = self.tasks
        for task in others if name is not None else ():
            mine, theirs = _whole_grid(self, first), _whole_grid(self, task)
            keys = sorted(mine.keys() | theirs.keys())
            if unlike := [key for key in keys if mine.get(key) != theirs.get(key)]:
                raise ValueError(
                    f"checkpoint {name} takes all tasks together, in runs of one grid, and those "
                    f"of {first.name} and {task.name} differ in {', '.join(unlike)}: give these "
                    "keys in grid and not in task_grids"
                )
        return self

    @property
    def contestants(self) -> tuple[Contestant, ...]:
        """The checkpoints, and the first one's architecture drawn anew where it is asked for."""
        if "random" not in self.baselines:
            return self.checkpoints
        first = self.checkpoints[0]
        drawn = Contestant(name=RANDOM, path=first.path, random_weights=True)
        return (*self.checkpoints, drawn)


def directory_name(name: str) -> str:
    """Return a name that is safe as a directory's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def _check_directories(kind: str, names: Sequence[str]) -> None:
    """Refuse names of which one's models would be saved over the other's."""
    known: dict[str, str] = {}
    for name in names:
        other = known.setdefault(directory_name(name), name)
        if other != name:
            raise ValueError(
                f"two {kind}, {other} and {name}, would be saved as {directory_name(name)}: "
                "let their names differ in letters a-z or digits"
            )


def load_evaluation(path: str, overrides: Sequence[str] = ()) -> Evaluation:
    """Read an evaluation's YAML recipe, overridden by `section.key=value`."""
    return load_section(Evaluation, path, overrides)


def cells(evaluation: Evaluation, task: Task) -> tuple[Hyperparameters, ...]:
    """Return the grid of a task, in order."""
    merged = _whole_grid(evaluation, task)
    rates, sizes = merged.pop("learning_rates"), merged.pop("batch_sizes")
    return tuple(
        Hyperparameters(learning_rate=rate, batch_size=size, **merged)
        for rate, size in product(rates, sizes)
    )


def _whole_grid(evaluation: Evaluation, task: Task) -> dict[str, Any]:
    """Return what a task's grid says with what it takes from the recipe's and from Table 10."""
    merged: dict[str, Any] = {}
    for grid in (TABLE_10[task.kind], evaluation.grid, evaluation.task_grids.get(task.name)):
        merged |= grid.model_dump(exclude_none=True) if grid else {}
    return merged
