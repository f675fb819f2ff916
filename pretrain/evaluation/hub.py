"""Examples from a name or a directory of the `datasets` library: NAME[:CONFIG]@SPLIT.

A directory is what `save_to_disk` wrote, or data files that `load_dataset` knows (JSON, CSV,
Parquet). Names are those of the Hub; the library loads data only, it runs no code of a data set.
Classes come as their names, and -1, its sign for a hidden label, as none.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.evaluation.records import Record
from pretrain.evaluation.tables import object_record
from pretrain.evaluation.tasks import Task

_NAME = re.compile(r"(?P<name>[^@]+?)(:(?P<config>[^:/@]+))?@(?P<split>[^@]+)")


def hub_records(task: Task, path: str) -> Iterator[Record]:
    """Give the rows of a split as records."""
    data = _open(path)
    names = {column: _class_names(feature) for column, feature in data.features.items()}
    for number, row in enumerate(data):
        named = {column: _named(value, names.get(column)) for column, value in row.items()}
        yield object_record(task, f"{path} row {number}", named)


def _open(path: str) -> Any:  # noqa: ANN401 - the library is not typed
    import datasets  # noqa: PLC0415 - takes a second, and most tasks are files

    match = _NAME.fullmatch(path)
    if match is None:
        raise ValueError(f"{path} names no data set: write NAME[:CONFIG]@SPLIT")
    name, config, split = match["name"], match["config"], match["split"]
    directory = Path(name)
    saved = directory / "dataset_dict.json"
    try:
        if saved.is_file():
            splits = datasets.load_from_disk(name)
            if split not in splits:
                raise ValueError(f"it has no split {split}, only {', '.join(sorted(splits))}")
            return splits[split]
        if (directory / "dataset_info.json").is_file() and (directory / "state.json").is_file():
            raise ValueError("it is one saved split: save a DatasetDict")
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be loaded by `datasets`: {error}") from None


def _class_names(feature: Any) -> list[str] | None:  # noqa: ANN401 - the library is not typed
    inner = getattr(feature, "feature", feature)
    names = getattr(inner, "names", None)
    return list(names) if names else None


def _named(value: Any, names: list[str] | None) -> Any:  # noqa: ANN401 - any value of a row
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(each, names) for each in value]
    return names[value] if value >= 0 else None
