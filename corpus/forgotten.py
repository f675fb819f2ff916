"""What must stay out of a store: the suppression list that take-downs leave behind.

`<store>/forgotten/*.json` holds, one file a take-down, SHA-256 values of document ids, hashes of
normalized texts, URL prefixes and source names; no text and no id. A document that passed the rules
and is on the list becomes a drop with the rule `forgotten`, in every later delivery and in a
rebuild. The text hash catches the same text under another id; naming a source forgets that source
alone, not the same text elsewhere.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from corpus.files import TEMPORARY_SUFFIX, join, list_names, read_bytes

_DIRECTORY, _SUFFIX = "forgotten", ".json"
# The columns of a document table by which `Forgotten.which` judges.
COVERED_BY = ("id", "source", "url", "text_hash")


class Forgotten(BaseModel):
    """Everything that stays out; empty where nothing was ever taken down."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    url_prefixes: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()

    def which(self, documents: pa.Table) -> npt.NDArray[np.bool_]:
        """Tell which documents of a table with the columns `COVERED_BY` stay out: [rows]."""
        prefixes = tuple(self.url_prefixes)
        tests: dict[str, tuple[bool, Callable[[Any], bool]]] = {
            "source": (bool(self.sources), lambda source: source in self.sources),
            "id": (bool(self.ids), lambda identity: hash_id(identity) in self.ids),
            "url": (bool(prefixes), lambda url: url is not None and url.startswith(prefixes)),
            "text_hash": (bool(self.texts), lambda digest: digest.hex() in self.texts),
        }
        found = np.zeros(documents.num_rows, np.bool_)
        for column, (is_needed, test) in tests.items():
            if is_needed:
                values = documents[column].to_pylist()
                found |= np.fromiter(map(test, values), np.bool_, len(values))
        return found

    def union(self, other: "Forgotten") -> "Forgotten":
        """Return what is on either list."""
        return Forgotten(
            ids=self.ids | other.ids,
            texts=self.texts | other.texts,
            url_prefixes=self.url_prefixes | other.url_prefixes,
            sources=self.sources | other.sources,
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is on the list."""
        return not (self.ids or self.texts or self.url_prefixes or self.sources)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the list in canonical order, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """Write the list as JSON in canonical order."""
        fields = {name: sorted(values) for name, values in self}
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def hash_id(identity: str) -> str:
    """Return what the list holds of a document id."""
    return hashlib.sha256(identity.encode()).hexdigest()


def read_forgotten(store: str) -> Forgotten:
    """Read the suppression list of a store; `ValueError` names a damaged file of it."""
    return unite(read_takedown(store, label) for label in list_takedowns(store))


def list_takedowns(store: str) -> list[str]:
    """Return the labels of all take-downs in order, finished or not."""
    names = list_names(join(store, _DIRECTORY))
    return [name.removesuffix(_SUFFIX) for name in names if not name.endswith(TEMPORARY_SUFFIX)]


def read_takedown(store: str, label: str) -> Forgotten:
    """Read the list of one take-down; `ValueError` names a damaged one."""
    path = forgotten_path(store, label)
    try:
        return Forgotten.model_validate_json(read_bytes(path))
    except ValidationError as error:
        raise ValueError(f"{path} is damaged: {error}: put back a copy of it") from None


def unite(lists: Iterable[Forgotten]) -> Forgotten:
    """Return what is on any of the lists."""
    together = Forgotten()
    for each in lists:
        together = together.union(each)
    return together


def forgotten_path(store: str, label: str) -> str:
    """Return where the list of one take-down lies."""
    return join(store, _DIRECTORY, label + _SUFFIX)
