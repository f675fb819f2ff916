"""Which raw files a recipe names, and what is known of them before they are read.

An input is known by (source, name, size, checksum). Its name is its path below the directory, the
fixed part of the glob or the folder it was named by, so it does not depend on the machine. A
checksum is computed once and then taken from the store's notes as long as the file's state
(size, time or ETag) is the same: what was delivered before is not read again.

A directory's files that are no data by their name (a dataset's `state.json`, checksums, markers of
other programs, hidden files) are passed over, and the log says so.
"""

import fnmatch
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from corpus.files import (
    checksum,
    exists,
    filesystem,
    is_remote,
    join,
    read_bytes,
    size_bytes,
    state_key,
    write_bytes,
)
from corpus.readers import sniff_format
from corpus.recipe import Recipe, Source
from corpus.records import ReadOptions
from corpus.snapshots import Input

_GLOB_CHARACTERS = "*?["
_NOTES = "inputs.json"
# Metadata of Hugging Face `datasets` on disk and caches of its `map`; checksums; hidden files and
# the markers of Spark and Hadoop, which start with a dot or an underscore.
_NO_DATA = (
    *("state.json", "dataset_info.json", "dataset_dict.json", "dataset_infos.json"),
    *("cache-*.arrow", "*.md5", "*.sha256", "*.sha1", "*.crc", ".*", "_*"),
)

logger = logging.getLogger(__name__)


def find_inputs(recipe: Recipe) -> tuple[tuple[Input, ...], dict[str, str]]:
    """List the inputs of all sources in canonical order, with the state key of each path."""
    notes = _read_notes(recipe.store)
    found = [entry for source in recipe.sources for entry in _find_in_source(source)]
    states = {path: state_key(path) for _, _, _, path in found}
    with ThreadPoolExecutor() as pool:
        checksums = list(pool.map(lambda path: _checksum(path, states[path], notes), states))
    known = dict(zip(states, checksums, strict=True))
    options = {source.name: options_of(source) for source in recipe.sources}
    inputs = [
        Input(
            snapshot=recipe.snapshot,
            source=source,
            name=name,
            format=form,
            options=options[source],
            size_bytes=size_bytes(path),
            checksum=known[path],
            path=path,
        )
        for source, name, form, path in found
    ]
    return tuple(sorted(inputs, key=lambda each: (each.source, each.name))), states


def options_of(source: Source) -> ReadOptions:
    """Return what of a source says how its records are read."""
    return ReadOptions.model_validate(source.model_dump(include=set(ReadOptions.model_fields)))


def note_inputs(store: str, inputs: Iterable[Input], states: dict[str, str]) -> None:
    """Remember the checksums of inputs with the state they were computed in."""
    notes = _read_notes(store)
    found = {each.path: {"state": states[each.path], "checksum": each.checksum} for each in inputs}
    if notes | found != notes:
        data = orjson.dumps(notes | found, option=orjson.OPT_SORT_KEYS)
        write_bytes(join(store, _NOTES), data)


def _read_notes(store: str) -> dict[str, Any]:
    path = join(store, _NOTES)
    return orjson.loads(read_bytes(path)) if exists(path) else {}


def _checksum(path: str, state: str, notes: dict[str, Any]) -> str:
    note = notes.get(path)
    if note is not None and note["state"] == state:
        return str(note["checksum"])
    return checksum(path)


def _find_in_source(source: Source) -> list[tuple[str, str, str, str]]:
    """Return (source, name, format, path) of every file of a source."""
    by_name: dict[str, str] = {}
    for given in source.paths:
        files = _expand(given)
        if not files:
            raise ValueError(f"source {source.name}: there is no file at {given}")
        for name, path in files:
            other = by_name.setdefault(name, path)
            if other != path:
                raise ValueError(
                    f"source {source.name}: {other} and {path} are both called {name}: name "
                    "their common parent directory instead, or make them two sources"
                )
    return [
        (source.name, name, source.format if source.format != "auto" else sniff_format(path), path)
        for name, path in by_name.items()
    ]


def _expand(given: str) -> list[tuple[str, str]]:
    """Return the (name, path) of every file that a path, directory or glob names."""
    fs, base = filesystem(given)
    # A file may have a bracket in its name.
    if any(character in given for character in _GLOB_CHARACTERS) and not fs.exists(base):
        paths = [path for path in fs.glob(base) if fs.isfile(path)]
        fixed = base[: min(base.index(c) for c in _GLOB_CHARACTERS if c in base)]
        base = fixed.rsplit("/", 1)[0]
    elif fs.isdir(base):
        paths = _data_files(fs.find(base), given)
    else:
        paths = [base] if fs.exists(base) else []
        base = base.rsplit("/", 1)[0]
    prefix = base.rstrip("/") + "/"
    spell = fs.unstrip_protocol if is_remote(given) else str
    return [(path.removeprefix(prefix), spell(path)) for path in sorted(paths)]


def _data_files(paths: list[str], given: str) -> list[str]:
    """Leave out what is no data; on a hub, also the page that describes the dataset."""
    patterns = (*_NO_DATA, "readme.md") if given.startswith("hf://") else _NO_DATA
    left: list[str] = []
    for path in paths:
        name = path.rsplit("/", 1)[-1].lower()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
            logger.info("%s is passed over: its name says that it is no data", path)
        else:
            left.append(path)
    return left
