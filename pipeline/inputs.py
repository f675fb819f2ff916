"""Which raw files a recipe names, and what is known of them before they are read.

An input is known by (source, name, size, checksum). Its name is its path below the directory, the
fixed part of the glob or the folder it was named by, so it does not depend on the machine. A
checksum is computed once and then taken from the store's notes as long as the file's state
(size, time or ETag) is the same: what was delivered before is not read again.
"""

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
from corpus.readers import detect_format
from corpus.recipe import Recipe, Source
from corpus.records import Keys
from corpus.snapshots import Input

_GLOB_CHARACTERS = "*?["
_NOTES = "inputs.json"
# What Hugging Face datasets, Spark and download tools put beside data in a directory.
_ASIDE = (
    "state.json", "dataset_info.json", "dataset_dict.json", "README.md", "LICENSE", ".md5", ".sha1",
    ".sha256", ".crc", ".lock", ".tmp",
)  # fmt: skip


def find_inputs(recipe: Recipe) -> tuple[tuple[Input, ...], dict[str, str]]:
    """List the inputs of all sources in canonical order, with the state key of each path."""
    notes = _read_notes(recipe.store)
    found = [entry for source in recipe.sources for entry in _find_in_source(source)]
    states = {path: state_key(path) for _, _, _, path in found}
    with ThreadPoolExecutor() as pool:
        checksums = list(pool.map(lambda path: _checksum(path, states[path], notes), states))
    known = dict(zip(states, checksums, strict=True))
    inputs = [
        Input(
            snapshot=recipe.snapshot,
            source=source,
            name=name,
            format=form,
            keys=keys,
            size_bytes=size_bytes(path),
            checksum=known[path],
            path=path,
        )
        for source, name, (form, keys), path in found
    ]
    return tuple(sorted(inputs, key=lambda each: (each.source, each.name))), states


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


def _find_in_source(source: Source) -> list[tuple[str, str, tuple[str, Keys], str]]:
    """Return (source, name, how it is read, path) of every file of a source."""
    keys = Keys(source.text_key, source.id_key, source.url_key, source.language_key, source.markup)
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
        (source.name, name, (_format(source, path), keys), path) for name, path in by_name.items()
    ]


def _is_aside(path: str) -> bool:
    """Tell a file that lies in a directory of data and is none: what tools note beside it."""
    name = path.rsplit("/", 1)[-1]
    return name.startswith((".", "_")) or name.endswith(_ASIDE)


def _format(source: Source, path: str) -> str:
    return source.format if source.format != "auto" else detect_format(path)


def _expand(given: str) -> list[tuple[str, str]]:
    """Return the (name, path) of every file that a path, directory or glob names."""
    fs, base = filesystem(given)
    if any(character in given for character in _GLOB_CHARACTERS) and not fs.exists(base):
        paths = [path for path in fs.glob(base) if fs.isfile(path)]
        fixed = base[: min(base.index(c) for c in _GLOB_CHARACTERS if c in base)]
        base = fixed.rsplit("/", 1)[0]
    elif fs.isdir(base):
        paths = [path for path in fs.find(base) if not _is_aside(path)]
    else:
        paths = [base] if fs.exists(base) else []
        base = base.rsplit("/", 1)[0]
    prefix = base.rstrip("/") + "/"
    spell = fs.unstrip_protocol if is_remote(given) else str
    return [(path.removeprefix(prefix), spell(path)) for path in sorted(paths)]
