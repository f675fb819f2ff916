"""Rules of the user's own: a function over batches of documents, named `module:function`.

The function is given a `pyarrow.RecordBatch` with the columns id, text, url, source, language and
meta (strings; url, language and meta may be null; meta is a JSON object) and returns for every row
whether the document stays: a boolean array, or a struct array or record batch with `keep` (boolean)
and, if it likes, `value` and `threshold` (numbers), which the drop record then shows. Without them
the value is 0 and the threshold 1. The text is the cleaned one. Its verdict on a row must depend on
that row and the code alone, for batches are cut anyhow.

The module is imported by name, in the driver and in every worker. `python -m pipeline` run in the
module's directory finds it there, as do the workers of the Ray that it starts; for a cluster,
`ray job submit --working-dir DIR` unpacks DIR (at most 500 MiB, `.gitignore` heeded) on every node
and puts it on the import path. A module may as well be installed in the image of all nodes.

The lineage holds the SHA-256 of the module's source file, so a store whose rule changed is refused
by name. What that module imports is not followed: keep a rule in one file.
"""

import hashlib
import importlib.util
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.rules import Failure

# Raised by hand when what a function is given changes.
VERSION = 1

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("meta", pa.string()),
    ]
)


@dataclass(frozen=True)
class UserRule:
    """One rule: what the recipe calls it, its function and the hash of its module's source."""

    spec: str
    function: Callable[[pa.RecordBatch], Any]
    fingerprint: str

    @property
    def name(self) -> str:
        """What drop records call the rule."""
        return f"user_{self.spec.rpartition(':')[2]}"

    def find(self, batch: pa.RecordBatch, place: str) -> list[Failure | None]:
        """Return the failure of every row, or None; an error names the rule and the place."""
        if not len(batch):
            return []
        try:
            given = self.function(batch)
        except Exception as error:
            kind = type(error).__name__
            raise ValueError(f"rule {self.spec} failed on {place}: {kind}: {error}") from error
        keep, value, threshold = _columns(given, len(batch), f"rule {self.spec} on {place}")
        return [
            None if stays else Failure(self.name, compared, least)
            for stays, compared, least in zip(keep, value, threshold, strict=True)
        ]


def load(spec: str) -> UserRule:
    """Import the function that a recipe names; `ValueError` says what is missing."""
    module, _, function = spec.partition(":")
    if not (module and function.isidentifier()):
        raise ValueError(f"user rule {spec!r} is not of the form module:function")
    try:
        source = importlib.util.find_spec(module)
    except (ImportError, ValueError) as error:
        raise ValueError(f"user rule {spec}: {error}") from None
    if source is not None and source.origin in ("built-in", "frozen"):
        raise ValueError(
            f"user rule {spec}: {module} is built in or frozen and has no file to fingerprint: "
            "call it in a module of your own and name that one"
        )
    if source is None or source.origin is None or not Path(source.origin).is_file():
        raise ValueError(
            f"user rule {spec}: there is no module {module} on the import path: run in its "
            "directory, or give that to ray job submit as --working-dir"
        )
    try:
        found = pkgutil.resolve_name(spec)
    except AttributeError:
        raise ValueError(f"user rule {spec}: {source.origin} has no {function}") from None
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"user rule {spec}: importing {module}: {kind}: {error}") from error
    if not callable(found):
        raise ValueError(f"user rule {spec}: {function} is a {type(found).__name__}, no function")
    return UserRule(spec, found, hashlib.sha256(Path(source.origin).read_bytes()).hexdigest())


def load_all(specs: Sequence[str]) -> tuple[UserRule, ...]:
    """Import all rules of a recipe; no two may have one name."""
    rules = tuple(map(load, specs))
    names = [rule.name for rule in rules]
    for rule in rules:
        if names.count(rule.name) > 1:
            raise ValueError(f"two user rules are called {rule.name}: rename one of the functions")
    return rules


def _columns(given: Any, rows: int, what: str) -> tuple[list[Any], ...]:  # noqa: ANN401 - theirs
    """Return keep, value and threshold of every row as lists."""
    if isinstance(given, pa.ChunkedArray):
        given = given.combine_chunks()
    if isinstance(given, pa.RecordBatch):
        given = given.to_struct_array()
    if not isinstance(given, pa.Array):
        raise ValueError(f"{what} returned a {type(given).__name__}, expected an Arrow array")
    if len(given) != rows:
        raise ValueError(f"{what} returned {len(given)} verdicts for {rows} documents")
    if not pa.types.is_struct(given.type):
        return _values(given, pa.bool_(), what), [0.0] * rows, [1.0] * rows
    names = [given.type.field(n).name for n in range(given.type.num_fields)]
    if "keep" not in names or set(names) - {"keep", "value", "threshold"}:
        raise ValueError(f"{what} returned {', '.join(names)}, expected keep, value, threshold")
    if given.null_count:
        raise ValueError(f"{what} returned {given.null_count} nulls")
    columns = {name: pc.struct_field(given, name) for name in names}
    return (
        _values(columns["keep"], pa.bool_(), what),
        _values(columns["value"], pa.float64(), what) if "value" in names else [0.0] * rows,
        _values(columns["threshold"], pa.float64(), what) if "threshold" in names else [1.0] * rows,
    )


def _values(column: pa.Array, wanted: pa.DataType, what: str) -> list[Any]:
    if column.null_count:
        raise ValueError(f"{what} returned {column.null_count} nulls")
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if column.type != wanted and not (wanted == pa.float64() and numeric):
        raise ValueError(f"{what} returned {column.type}, expected {wanted}")
    return list(column.cast(wanted).to_pylist())
