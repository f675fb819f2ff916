"""A labelled task as data: what is asked, where its files lie, how they look, what counts.

A task is a preset by name plus whatever a recipe says otherwise (`load_task`), or written whole.
The presets (presets.py) hold the published layouts and metrics, never paths.
"""

from typing import Any, Literal

from pydantic import Field

from corpus.section import Section

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


class Task(Section):
    """One labelled task; the first of its metrics selects the best run."""

    name: str = Field(min_length=1, description="what tables call it")
    kind: Kind = Field(description="what is predicted")
    format: Format = Field(description="layout of the files; lines: a label, a space, a text")
    train: tuple[str, ...] = Field((), description="files, or NAME[:CONFIG]@SPLIT of `datasets`")
    validation: tuple[str, ...] = Field((), description="the same; absent: held out of train")
    test: tuple[str, ...] = Field((), description="the same")
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
        None, description="a label is cut before it: with ':' DESC:manner becomes DESC"
    )
    spans: bool = Field(True, description="tags mark spans (IOB1, IOB2, BIOES), no plain classes")
    no_answer: bool = Field(False, description="questions may have no answer (SQuAD 2.0)")
    options: int = Field(4, ge=2, description="options of a question of multiple choice")
    metrics: tuple[Metric, ...] = Field(min_length=1, description="the first one selects")
    max_length: int = Field(512, ge=16, description="tokens of an input, special ones included")
    stride: int = Field(128, ge=0, description="tokens that neighbouring pieces of a text share")
    max_answer_tokens: int = Field(30, ge=1, description="longer answers are not considered")


def load_task(values: dict[str, Any]) -> Task:
    """Make a task from a preset's values and those given; `preset` names it, else `name` does."""
    raise NotImplementedError
