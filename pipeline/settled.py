"""What a verdict rests on beside the recipe itself, kept in the store under its fingerprint.

URL block lists, bad words, repeated lines and evaluation files are read once, when a run starts.
What comes of them lies in `lists/<fingerprint>`, and the recipe that goes on from there names the
fingerprint where the files' paths stood; a user's rule it names with the fingerprint of its code.
So a changed list or rule is another lineage, whatever its path, and no worker, audit or rebuild
needs the original files.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from corpus.files import create, join, read_bytes
from corpus.recipe import Clean
from pipeline.bad_words import BadWords
from pipeline.boilerplate import Boilerplate
from pipeline.contamination import Contamination
from pipeline.custom import UserRule, load_all
from pipeline.languages import check_languages
from pipeline.rules import thresholds
from pipeline.urls import UrlBlockList

_PREFIX = "sha256-"
_DIRECTORY = "lists"


class Lists(NamedTuple):
    """The lists of a recipe, opened; absent where it names none."""

    urls: UrlBlockList | None = None
    boilerplate: Boilerplate | None = None
    contamination: Contamination | None = None
    user_rules: tuple[UserRule, ...] = ()
    bad_words: BadWords | None = None


def settle(clean: Clean) -> tuple[Clean, dict[str, bytes]]:
    """Read the lists that a recipe names by path; return it naming fingerprints, and the lists.

    What is settled already stays as it is. `ValueError` names a threshold of no rule, a language
    that no text can be in, a list that cannot be read.
    """
    thresholds(clean)
    check_languages(clean.languages)
    made: dict[str, bytes] = {}

    def name(found: UrlBlockList | Boilerplate | Contamination | BadWords) -> str:
        made[_PREFIX + found.fingerprint] = found.to_bytes()
        return _PREFIX + found.fingerprint

    changes: dict[str, Any] = {}
    if _by_path(clean.url_blocklists):
        changes["url_blocklists"] = (name(UrlBlockList.build(_read(clean.url_blocklists))),)
    if clean.boilerplate is not None and _by_path([clean.boilerplate]):
        changes["boilerplate"] = name(Boilerplate.parse(_read([clean.boilerplate])[0][1]))
    if _by_path(clean.decontaminate):
        found = Contamination.build(_read(clean.decontaminate), clean.decontaminate_ngram)
        changes["decontaminate"] = (name(found),)
    if _by_path(clean.c4_bad_words):
        changes["c4_bad_words"] = (name(BadWords.build(_read(clean.c4_bad_words))),)
    rules = _load_rules(clean.user_rules)
    changes["user_rules"] = tuple(f"{rule.spec}@{rule.fingerprint}" for rule in rules)
    return clean.model_copy(update=changes), made


def _by_path(names: Iterable[str]) -> bool:
    """Tell whether there are lists that are named by their paths."""
    return any(not each.startswith(_PREFIX) for each in names)


def _read(paths: Sequence[str]) -> list[tuple[str, bytes]]:
    """Return name and content of files."""
    files = []
    for path, name in zip(paths, names_of(paths), strict=True):
        try:
            files.append((name, read_bytes(path)))
        except FileNotFoundError:
            raise ValueError(f"there is no list at {path}") from None
        except OSError as error:
            raise ValueError(f"the list at {path} cannot be read: {error}") from None
    return files


def names_of(paths: Sequence[str]) -> list[str]:
    """Return what tells each file: its path below the directory that all of them lie in.

    `[/data/rte/dev.tsv, /data/cola/dev.tsv] -> [rte/dev.tsv, cola/dev.tsv]`, so that where the
    directory lies does not show. `ValueError` names a file that is listed twice.
    """
    split = [[part for part in path.split("/") if part not in ("", ".")] for path in paths]
    common = os.path.commonprefix([parts[:-1] for parts in split])  # noqa: RUF071 - whole parts
    names = ["/".join(parts[len(common) :]) for parts in split]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise ValueError(f"the list {path} is named twice: leave one of them out")
    return names


def keep_lists(store: str, lists: dict[str, bytes]) -> None:
    """Put lists into a store, where they stay."""
    for name, data in lists.items():
        create(join(store, _DIRECTORY, name), data)


def copy_lists(store: str, into: str, clean: Clean) -> None:
    """Put the lists of a settled recipe into another store too."""
    keep_lists(into, {name: read_bytes(_path(store, name)) for name in _names(clean)})


def _names(clean: Clean) -> list[str]:
    boilerplate = [] if clean.boilerplate is None else [clean.boilerplate]
    return [*clean.url_blocklists, *boilerplate, *clean.decontaminate, *clean.c4_bad_words]


def _path(store: str, name: str) -> str:
    return join(store, _DIRECTORY, name)


def _load_rules(specs: Sequence[str]) -> tuple[UserRule, ...]:
    """Import rules; one whose code is not what the recipe was settled with is refused."""
    rules = load_all([spec.partition("@")[0] for spec in specs])
    for spec, rule in zip(specs, rules, strict=True):
        wanted = spec.partition("@")[2]
        if wanted and wanted != rule.fingerprint:
            raise ValueError(
                f"user rule {rule.spec}: its module has checksum {rule.fingerprint}, the store was "
                f"made with {wanted}: put that code back"
            )
    return rules


def open_lists(store: str, clean: Clean) -> Lists:
    """Open the lists of a settled recipe."""

    def read(names: Iterable[str]) -> bytes | None:
        return next((_list_bytes(_path(store, name)) for name in names), None)

    urls, contamination = read(clean.url_blocklists), read(clean.decontaminate)
    lines = None if clean.boilerplate is None else read([clean.boilerplate])
    words = read(clean.c4_bad_words)
    return Lists(
        None if urls is None else UrlBlockList.parse(urls),
        None if lines is None else Boilerplate.parse(lines),
        None if contamination is None else Contamination.parse(contamination),
        _load_rules(clean.user_rules),
        None if words is None else BadWords.parse(words),
    )


def _list_bytes(path: str) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        raise ValueError(f"the list {path} is missing: put it back from another copy") from None
