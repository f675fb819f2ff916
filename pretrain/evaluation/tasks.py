"""A labelled task as data: what is asked, where its files lie, how they look, what counts.

A task is a preset by name plus whatever a recipe says otherwise (`load_task`), or written whole.
The presets (presets.py) hold the published layouts and metrics, never paths.
"""

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from corpus.section import Section, explain_all
from pretrain.evaluation.presets import PRESETS

Kind = Literal["classification", "regression", "tagging", "answering", "choice"]
Format = Literal["tsv", "csv", "jsonl", "lines", "conll", "squad", "race", "datasets"]
Metric = Literal[
    "accuracy",
    "f1",
    "macro_f1",
    "matthews",
    "pearson",
    "spearman",
    "span_f1",
    "exact_match",
    "best_f1",
    "best_exact_match",
]
Column = str | int | tuple[str | int, ...]

# The roles that columns can have, by kind; `label` and what follows it may be missing in files.
ROLES: dict[str, tuple[str, ...]] = {
    "classification": ("text", "pair", "id", "label"),
    "regression": ("text", "pair", "id", "label"),
    "tagging": ("words", "id", "tags"),
    "answering": ("question", "context", "id", "impossible", "answers"),
    "choice": ("context", "question", "options", "id", "label"),
}
FORMATS: dict[str, tuple[str, ...]] = {
    "classification": ("tsv", "csv", "jsonl", "lines", "datasets"),
    "regression": ("tsv", "csv", "jsonl", "lines", "datasets"),
    "tagging": ("conll", "jsonl", "datasets"),
    "answering": ("squad", "jsonl", "datasets"),
    "choice": ("race", "jsonl", "datasets"),
}
METRICS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1", "macro_f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "tagging": ("span_f1", "accuracy", "macro_f1"),
    "answering": ("exact_match", "f1", "best_exact_match", "best_f1"),
    "choice": ("accuracy",),
}


class Task(Section):
    """One labelled task; the first of its metrics selects the best run."""

    name: str = Field(min_length=1, description="what tables call it")
    kind: Kind = Field(description="what is predicted")
    format: Format = Field(description="layout of the files; lines: a label, a space, a text")
    train: tuple[str, ...] = Field((), description="files, or NAME[:CONFIG]@SPLIT of `datasets`")
    validation: tuple[str, ...] = Field((), description="the same; absent: held out of train")
    test: tuple[str, ...] = Field((), description="the same")
    also: dict[str, tuple[str, ...]] = Field(
        {},
        description="more sets by name, such as MNLI's mismatched; like test, nothing is chosen "
        "by them",
    )
    held_out: float = Field(
        0.1, gt=0, lt=1, description="share of train that validates where validation is absent"
    )
    encoding: str = Field("utf-8", description="of the files, as Python names it")
    columns: dict[str, Column] = Field(
        {}, description="column of a role, by name or number from 0; of several, the first there"
    )
    header: bool = Field(True, description="whether tables begin with the names of their columns")
    labels: tuple[str, ...] | None = Field(None, description="absent: those of train, sorted")
    label_until: str | None = Field(
        None, min_length=1, description="a label ends before it: by ':' DESC:manner becomes DESC"
    )
    spans: bool = Field(True, description="tags mark spans (IOB1, IOB2, BIOES), no plain classes")
    no_answer: bool = Field(False, description="questions may have no answer (SQuAD 2.0)")
    options: int = Field(4, ge=2, description="options of a question of multiple choice")
    metrics: tuple[Metric, ...] = Field(min_length=1, description="the first one selects")
    max_length: int = Field(512, ge=16, description="tokens of an input, special ones included")
    stride: int = Field(128, ge=0, description="tokens that neighbouring pieces of a text share")
    max_answer_tokens: int = Field(30, ge=1, description="longer answers are not considered")

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_are_text(cls, labels: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
        """Take numbers as labels as they are spelt: YAML reads 0 and 1 as numbers."""
        if not isinstance(labels, list | tuple):
            return labels
        plain = (int, float)
        return tuple(str(x) if type(x) in plain else x for x in labels)

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels)):
            raise ValueError(f"labels is {list(labels)}, expected two or more different ones")
        return labels

    @field_validator("encoding")
    @classmethod
    def _encoding_has_lines(cls, encoding: str) -> str:
        try:
            fits = "a\n\t".encode(encoding) == b"a\n\t"
        except LookupError:
            raise ValueError(f"encoding is {encoding}, which Python does not know") from None
        if not fits:
            raise ValueError(f"encoding is {encoding}, expected one that contains ASCII")
        return encoding

    @field_validator("also")
    @classmethod
    def _sets_have_files(cls, also: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, files in also.items():
            if name in ("", "train", "validation", "test"):
                raise ValueError(f"also has a set {name!r}: give it a name of its own")
            if not files:
                raise ValueError(f"also has no files for {name}")
        return also

    @property
    def scored(self) -> dict[str, tuple[str, ...]]:
        """The sets that nothing is chosen by: test, and those of `also`."""
        return ({"test": self.test} if self.test else {}) | self.also

    @model_validator(mode="after")
    def _parts_fit(self) -> "Task":
        kind = self.kind
        if self.format not in FORMATS[kind]:
            raise ValueError(f"format {self.format} holds no {kind}: {_any_of(FORMATS[kind])}")
        for metric in self.metrics:
            if metric not in METRICS[kind]:
                raise ValueError(f"metric {metric} is not for {kind}: {_any_of(METRICS[kind])}")
            if metric.startswith("best_") and not self.no_answer:
                raise ValueError(f"metric {metric} needs no_answer: it is over its threshold")
            if metric == "span_f1" and not self.spans:
                raise ValueError("metric span_f1 needs spans: true")
        if self.labels is not None and kind not in ("classification", "tagging"):
            raise ValueError(f"labels is given, but {kind} has none")
        return self

    @model_validator(mode="after")
    def _columns_fit(self) -> "Task":
        roles = ROLES[self.kind]
        if self.format == "conll":
            roles = ("words", "tags")
        elif self.format in ("lines", "squad", "race"):
            roles = ()
        unnamed = self.format == "conll" or (self.format in ("tsv", "csv") and not self.header)
        for role, column in self.columns.items():
            if role not in roles:
                takes = _any_of(roles) if roles else "it has none of its own"
                raise ValueError(f"columns has {role}, but {self.format} of {self.kind}: {takes}")
            numbers = [each for each in candidates(column) if isinstance(each, int)]
            if unnamed and not numbers:
                raise ValueError(f"column of {role} is {column!r}: the columns have numbers only")
            if any(number < 0 for number in numbers):
                raise ValueError(f"column of {role} is {column}, expected 0 or more")
        return self


def score_name(split: str, metric: str) -> str:
    """Name a metric of a set: plain for test, after the name of any other."""
    return metric if split == "test" else f"{split} {metric}"


def candidates(column: Column) -> tuple[str | int, ...]:
    """Return the names and numbers that a column may have."""
    return column if isinstance(column, tuple) else (column,)


def load_task(values: Mapping[str, Any]) -> Task:
    """Make a task from a preset's values and those given: `preset` names it, else `name` does.

    Columns are merged role by role; null takes a role away.
    """
    given = dict(values)
    preset = given.pop("preset", None)
    name = preset if preset is not None else given.get("name")
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"there is no preset {preset}: did you mean {_nearest(preset)}?")
    base = PRESETS.get(str(name), {})
    if not base and not {"kind", "format", "metrics"} <= given.keys():
        raise ValueError(
            f"task {name} is no preset, the nearest is {_nearest(name)}: name a preset, or give "
            "kind, format and metrics"
        )
    merged = {"name": name, **base, **given}
    if isinstance(given.get("columns"), dict):
        columns = {**base.get("columns", {}), **given["columns"]}
        merged["columns"] = {role: column for role, column in columns.items() if column is not None}
    try:
        return Task.model_validate(merged)
    except ValidationError as error:
        raise ValueError(f"task {name}: " + "; ".join(explain_all(Task, error))) from None


def _load_tasks(values: Any) -> Any:  # noqa: ANN401 - before any check
    if not isinstance(values, list | tuple):
        return values
    return [load_task(value) if isinstance(value, dict) else value for value in values]


# Tasks as a recipe lists them: each a preset's name and what differs.
Tasks = Annotated[tuple[Task, ...], BeforeValidator(_load_tasks)]


def _nearest(name: object) -> str:
    return difflib.get_close_matches(str(name), sorted(PRESETS), n=1, cutoff=0.0)[0]


def _any_of(names: tuple[str, ...]) -> str:
    return "take " + ", ".join(names[:-1]) + " or " * (len(names) > 1) + names[-1]
