"""Which raw files a recipe names, and what is known of them before they are read.

An input is known by (source, name, size, checksum). Its name is its path below the directory, the
fixed part of the glob or the folder it was named by, so it does not depend on the machine. A
checksum is computed once and then taken from the store's notes as long as the file's state
(size, time or ETag) is the same: what was delivered before is not read again. Much that is new is
read in tasks, whose checksums are noted as they come, so a killed command does not begin anew.

A directory's files that are no data by their name (a dataset's `state.json`, checksums, markers of
other programs, what is hidden) are passed over, and the log says so. Where the directory is a
dataset's, on a hub or copied from one, so are the pages at its top that describe it. So is a store
that lies below a directory: what maskline wrote is no input of it.
"""

import fnmatch
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from corpus.files import (
    checksum,
    exists,
    filesystem,
    is_file_name,
    is_remote,
    join,
    look_afresh,
    read_bytes,
    remote_reads,
    state_key,
    write_bytes,
)
from corpus.formats import ARCHIVES, format_by_name, sniff_format
from corpus.recipe import Recipe, Source
from corpus.records import AUTO, ReadOptions
from corpus.snapshots import Input
from pipeline.jobs import HERE, Pool, in_runs

_GLOB_CHARACTERS = "*?["
_NOTES = "inputs.json"
LINEAGE = "lineage.json"  # what a store is recognized by, beside its notes
# Metadata of Hugging Face `datasets` on disk and caches of its `map`; checksums; hidden files and
# the markers of Spark and Hadoop, which start with a dot or an underscore.
_NO_DATA: tuple[str, ...] = (
    *("state.json", "dataset_info.json", "dataset_dict.json", "dataset_infos.json"),
    *("cache-*.arrow", "*.md5", "*.sha256", "*.sha1", "*.crc", ".*", "_*"),
)
# By one of these at its top a directory is a dataset's: every repository of the hub has the first,
# `datasets` writes the others.
_OF_DATASET = (".gitattributes", "dataset_dict.json", "dataset_info.json", "dataset_infos.json")
# What describes a repository and stands at its top.
_ABOUT = (
    *("readme", "readme.*", "license*", "licence*", "notice*", "citation*", "changelog*"),
    *("contributing*", "code_of_conduct*", "*.py"),
)
# How the hub names a dataset.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

# Raw bytes that are new and yet read in this process: some seconds of it. Guess.
_READ_HERE_BYTES = 2**30
# Files that a task reads side by side: of small ones in a bucket most is waiting. Guess.
_READS_AT_A_TIME = 8
# How often checksums are noted while they are computed; a note of 100,000 files takes 0.2 s. Guess.
_NOTE_EVERY_SECONDS = 30.0

logger = logging.getLogger(__name__)


class _File(NamedTuple):
    """A file that a source names, and what its filesystem said of it when it was listed."""

    name: str
    path: str
    size_bytes: int
    state: str


def find_inputs(recipe: Recipe, pool: Pool = HERE) -> tuple[tuple[Input, ...], dict[str, str]]:
    """List the inputs of all sources in canonical order, with the state key of each path."""
    for given in (path for source in recipe.sources for path in source.paths):
        look_afresh(given)
    found = [entry for source in recipe.sources for entry in _find_in_source(source, recipe.store)]
    files = {file.path: file for _, _, file in found}
    states = {path: file.state for path, file in files.items()}
    known = _find_checksums(recipe.store, files, pool)
    options = {source.name: options_of(source) for source in recipe.sources}
    inputs = [
        Input(
            snapshot=recipe.snapshot,
            source=source,
            name=file.name,
            format=form,
            options=options[source],
            size_bytes=file.size_bytes,
            checksum=known[file.path],
            path=file.path,
        )
        for source, form, file in found
    ]
    return tuple(sorted(inputs, key=lambda each: (each.source, each.name))), states


def options_of(source: Source) -> ReadOptions:
    """Return what of a source says how its records are read."""
    return ReadOptions.model_validate(source.model_dump(include=set(ReadOptions.model_fields)))


def note_inputs(store: str, inputs: Iterable[Input], states: dict[str, str]) -> None:
    """Remember the checksums of inputs with the state they were computed in."""
    _note(store, {each.path: each.checksum for each in inputs}, states)


def _note(store: str, checksums: Mapping[str, str], states: Mapping[str, str]) -> None:
    notes = _read_notes(store)
    found = {path: {"state": states[path], "checksum": each} for path, each in checksums.items()}
    if notes | found != notes:
        data = orjson.dumps(notes | found, option=orjson.OPT_SORT_KEYS)
        write_bytes(join(store, _NOTES), data)


def warn_of_moved(known: Iterable[Input], new: Iterable[Input]) -> None:
    """Say where files that are read again only have another name than when they were delivered."""
    names = {(each.source, each.size_bytes, each.checksum): each.name for each in known}
    moved = [
        (before, each.name)
        for each in new
        if (before := names.get((each.source, each.size_bytes, each.checksum), each.name))
        != each.name
    ]
    if moved:
        logger.warning(
            "%d of the new inputs have the content of files that were delivered under other names "
            "(%s as %s): they are read again, and what is kept of them already is dropped "
            "(same_id). A name is the path below what the recipe names: name the same folder",
            len(moved), moved[0][1], moved[0][0],
        )  # fmt: skip


def _read_notes(store: str) -> dict[str, Any]:
    path = join(store, _NOTES)
    return orjson.loads(read_bytes(path)) if exists(path) else {}


def _find_checksums(store: str, files: Mapping[str, _File], pool: Pool) -> dict[str, str]:
    """Return the checksums of files by path: those that were noted, and what is read for it."""
    notes = _read_notes(store)
    known = {
        path: str(notes[path]["checksum"])
        for path, file in files.items()
        if path in notes and notes[path]["state"] == file.state != ""
    }
    new = [file for path, file in files.items() if path not in known]
    new_bytes = sum(file.size_bytes for file in new)
    if new_bytes <= _READ_HERE_BYTES:
        with ThreadPoolExecutor() as threads:
            return known | dict(threads.map(_checksum, new))
    logger.info("checksums of %d raw files, %.1f GB", len(new), new_bytes / 1e9)
    found: dict[str, str] = {}
    noted = time.perf_counter()
    runs = in_runs(new, lambda file: file.size_bytes)
    for checksums in pool.map("checksums", _checksum_all, runs):
        found.update(checksums)
        if time.perf_counter() - noted > _NOTE_EVERY_SECONDS:
            _note(store, found, {path: files[path].state for path in found})
            noted = time.perf_counter()
    return known | found


def _checksum_all(files: Sequence[_File]) -> list[tuple[str, str]]:
    with ThreadPoolExecutor(_READS_AT_A_TIME) as threads:
        return list(threads.map(_checksum, files))


def _checksum(file: _File) -> tuple[str, str]:
    return file.path, checksum(file.path)


def _find_in_source(source: Source, store: str) -> list[tuple[str, str, _File]]:
    """Return (source, format, file) of every file of a source."""
    by_name: dict[str, _File] = {}
    for given in source.paths:
        files = _expand(given, store)
        if not files:
            raise ValueError(f"source {source.name}: there is no file at {given}{_hint(given)}")
        for file in files:
            other = by_name.setdefault(file.name, file)
            if other.path != file.path:
                raise ValueError(
                    f"source {source.name}: {other.path} and {file.path} are both called "
                    f"{file.name}: name their common parent directory instead, or make them two "
                    "sources"
                )
    return [(source.name, _format(source, file.path), file) for file in by_name.values()]


def _format(source: Source, path: str) -> str:
    """Tell the format of a file; one that a recipe says is not that of an archive's members."""
    if source.format == AUTO:
        return sniff_format(path)
    by_name = format_by_name(path)
    if by_name in ARCHIVES and source.format not in ARCHIVES:
        raise ValueError(
            f"source {source.name}: {path} is a {by_name} by its name and no {source.format}: if "
            f"what it holds is, say members: {source.format} in place of format"
        )
    return source.format


def _hint(given: str) -> str:
    """Say how a dataset of the hub is written, or read, where a path may be that of one."""
    if given.startswith("hf://"):
        return (
            ", or the hub does not show it to you: a dataset is hf://datasets/OWNER/NAME, and a "
            "private or gated one wants HF_TOKEN in the environment or `hf auth login`"
        )
    if not _HUB_NAME.fullmatch(given) or format_by_name(given):
        return ""
    return (
        f": for the dataset of the Hugging Face hub write hf://datasets/{given}, with @REVISION "
        "after it for one revision and a glob like /CONFIG/train-*.parquet for one split"
    )


def _expand(given: str, store: str) -> list[_File]:
    """Return every file that a path, directory or glob names, but none of a store."""
    with remote_reads(given):
        fs, base = filesystem(given)
        # A file may have a bracket in its name.
        if any(character in given for character in _GLOB_CHARACTERS) and not exists(given):
            found = _matching(fs, base, given)
            fixed = base[: min(base.index(c) for c in _GLOB_CHARACTERS if c in base)]
            base = fixed.rsplit("/", 1)[0]
            found = _without_stores(found, _own(fs, base, store))
        elif _may_be_directory(given) and fs.isdir(base):
            found = _without_stores(fs.find(base, detail=True), _own(fs, base, store))
            left = _data_files(list(found), base, given)
            found = {path: found[path] for path in left}
        else:
            found = {base: fs.info(base)} if exists(given) else {}
            base = base.rsplit("/", 1)[0]
        if not is_remote(given):
            _check_files(found)
        # What a listing says is enough, and to ask for each file is what a hub limits; but one of a
        # web server has no sizes, and one of a disk does not follow links.
        told = {
            path: info if is_remote(given) and info.get("size") is not None else fs.info(path)
            for path, info in found.items()
            if is_file_name(path)
        }
    _check_names(told)
    prefix = base.rstrip("/") + "/"
    spell = fs.unstrip_protocol if is_remote(given) else str
    return [
        _File(
            path.removeprefix(prefix), spell(path), _size_bytes(path, info), state_key(path, info)
        )
        for path, info in sorted(told.items())
    ]


def _matching(fs: Any, base: str, given: str) -> dict[str, dict[str, Any]]:  # noqa: ANN401 - fsspec
    """Return the files that a glob names; where its bucket or dataset is missing there are none."""
    listed: dict[str, dict[str, Any]] = {}
    with suppress(FileNotFoundError), remote_reads(given):
        listed = fs.glob(base, detail=True)
    if is_remote(given):
        return {path: info for path, info in listed.items() if info["type"] == "file"}
    return {path: info for path, info in listed.items() if fs.isfile(path)}


def _own(fs: Any, base: str, store: str) -> str | None:  # noqa: ANN401 - fsspec
    """Return a store's directory as the filesystem spells it, where it lies at a base or below."""
    other, path = filesystem(store)
    path = path.rstrip("/") + "/"
    return path if type(other) is type(fs) and path.startswith(base.rstrip("/") + "/") else None


def _without_stores(found: dict[str, Any], own: str | None) -> dict[str, Any]:
    """Leave out what lies in the store that is written to, and in others by their two notes."""
    folders = {path.removesuffix(_NOTES) for path in found if path.endswith("/" + _NOTES)}
    stores = {folder for folder in folders if folder + LINEAGE in found}
    if own is not None:
        stores.add(own)
    for each in sorted(stores):
        if any(path.startswith(each) for path in found):
            logger.info("%s is passed over: it is a store, and no data", each)
    over = tuple(stores)
    return {path: info for path, info in found.items() if not path.startswith(over)}


def _check_names(paths: Iterable[str]) -> None:
    """Refuse a name that no record of ours could hold: those are JSON, in UTF-8."""
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"the name of {path!r} is not UTF-8: rename the file") from error


def _check_files(paths: Iterable[str]) -> None:
    """Refuse what a disk lists beside its files, and what would be waited for without end."""
    for path in map(Path, paths):
        if path.is_file():
            continue
        if path.is_dir():
            raise ValueError(
                f"{path} is a link to a directory, which is not followed: name the directory "
                "among the source's paths, or remove the link"
            )
        what = "a link that leads nowhere" if path.is_symlink() else "no file, as a pipe is none"
        raise ValueError(f"{path} is {what}: remove it, or let the source's paths leave it out")


def _size_bytes(path: str, info: dict[str, Any]) -> int:
    if info.get("size") is None:
        raise ValueError(f"{path} has no known size: its server does not tell; copy it to a disk")
    return int(info["size"])


def _may_be_directory(given: str) -> bool:
    """Tell whether to ask: to fsspec's HTTP every page with links in it is a directory."""
    return not given.startswith(("http://", "https://")) or given.endswith("/")


def _data_files(paths: list[str], base: str, given: str) -> list[str]:
    """Leave out what is no data."""
    names = {path: path.removeprefix(base.rstrip("/") + "/") for path in paths}
    is_dataset = given.startswith("hf://") or not set(_OF_DATASET).isdisjoint(names.values())
    left: list[str] = []
    over: set[str] = set()
    for path, name in names.items():
        if (what := _no_data(name, is_dataset)) is None:
            left.append(path)
        else:
            over.add(path.removesuffix(name) + what)
    for each in sorted(over):
        logger.info("%s is passed over: its name says that it is no data", each)
    return left


def _no_data(name: str, is_dataset: bool) -> str | None:
    """Return what says that a file is no data: the hidden folder it lies in, or the file."""
    *folders, last = name.split("/")
    for number, folder in enumerate(folders, 1):
        if folder.startswith("."):
            return "/".join(folders[:number])
    patterns = _NO_DATA
    if is_dataset:
        patterns += ("readme.md",) if folders else _ABOUT
    is_no_data = any(fnmatch.fnmatchcase(last.lower(), pattern) for pattern in patterns)
    return name if is_no_data else None
