"""The data of a task as a checkpoint reads it: examples, features, and a hash of the examples.

The hash is of what was read, not of files: the same examples in other files, or compressed, are the
same task, and a mended reader makes another one.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from pretrain.evaluation.examples import Example, Split, TaskData, read_task
from pretrain.evaluation.features import Encoded, encode
from pretrain.evaluation.fits import Fit, fit_of, tell_fits
from pretrain.evaluation.heads import max_tokens, open_tokenizer
from pretrain.evaluation.tasks import Task

logger = logging.getLogger(__name__)

# Keys of a task that say where and how examples lie, which the examples themselves stand for.
_PLACES = {
    "name", "format", "train", "validation", "test", "also", "held_out", "encoding", "columns",
    "header", "labels", "label_until",
}  # fmt: skip


@dataclass(frozen=True)
class Prepared:
    """A task ready to be learned; its `max_length` is within what the checkpoint takes."""

    task: Task
    data: TaskData
    tokenizer: Any
    train: Encoded
    validation: Encoded
    scored: Mapping[str, Encoded]

    @property
    def encoded(self) -> dict[str, Encoded]:
        """All splits by name."""
        return {"train": self.train, "validation": self.validation, **self.scored}

    @property
    def fits(self) -> dict[str, Fit]:
        """How the examples of each split fit into inputs."""
        splits = splits_of(self.data)
        return {
            name: fit_of(encoded, len(splits[name].examples), self.task.max_length)
            for name, encoded in self.encoded.items()
        }


def splits_of(data: TaskData) -> dict[str, Split]:
    """Give all splits of a task by name."""
    return {"train": data.train, "validation": data.validation, **data.scored}


def read(task: Task) -> TaskData:
    """Read a task, once in a process as long as its files do not change."""
    return _read(task.model_dump_json(), _states(task))


def prepare(task: Task, checkpoint: str, taken: int = 0) -> Prepared:
    """Read and tokenize a task for a checkpoint, once in a process.

    Of the checkpoint's positions so many are `taken` by an adapter.
    """
    whole = str(Path(checkpoint).absolute())
    return _prepare(task.model_dump_json(), _states(task), whole, taken)


def task_identity(task: Task) -> dict[str, Any]:
    """Return what of a task determines its results: how it is read is in the examples."""
    return orjson.loads(_identity(task.model_dump_json(), _states(task)))  # type: ignore[no-any-return]


@lru_cache(maxsize=64)
def _identity(text: str, states: tuple[tuple[str, int, int], ...]) -> bytes:
    task, data = Task.model_validate_json(text), _read(text, states)
    splits = splits_of(data)
    return orjson.dumps(
        {
            "task": task.model_dump(mode="json", exclude=_PLACES),
            "labels": list(data.labels),
            "examples": {name: _digest(split.examples) for name, split in splits.items()},
        }
    )


def _digest(examples: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        nameless = replace(example, id="")  # it may be the name of the file
        digest.update(repr(nameless).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _states(task: Task) -> tuple[tuple[str, int, int], ...]:
    """Return what tells that a file is another one than before; other places have none."""
    files = (*task.train, *task.validation, *chain(*task.scored.values()))
    paths = [Path(path) for path in files]
    states = [(path, path.stat()) for path in paths if path.is_file()]
    return tuple((str(path), state.st_mtime_ns, state.st_size) for path, state in states)


@lru_cache(maxsize=16)
def _read(task: str, states: tuple[tuple[str, int, int], ...]) -> TaskData:
    del states
    return read_task(Task.model_validate_json(task))


@lru_cache(maxsize=2)
def _prepare(
    task: str, states: tuple[tuple[str, int, int], ...], checkpoint: str, taken: int
) -> Prepared:
    data = _read(task, states)
    given = Task.model_validate_json(task)
    tokenizer = open_tokenizer(checkpoint, given.kind)
    longest = min(given.max_length, max_tokens(checkpoint, tokenizer, taken))
    fitting = given.model_copy(update={"max_length": longest})
    encoded = {
        name: encode(fitting, data.labels, split.examples, tokenizer)
        for name, split in splits_of(data).items()
    }
    train, validation = encoded.pop("train"), encoded.pop("validation")
    if not any(feature.labels for feature in train.features):
        raise ValueError(f"task {given.name} has no training examples: {dict(data.train.drops)}")
    if not validation.features:
        raise ValueError(
            f"task {given.name} has no validation examples: {dict(data.validation.drops)}"
        )
    prepared = Prepared(fitting, data, tokenizer, train, validation, encoded)
    for line in tell_fits(fitting, prepared.fits):
        logger.warning("%s", line)
    return prepared
