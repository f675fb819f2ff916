"""What every reader gives: a record with its place, or damage in the place of one.

A format's own room finds the fields of a record; what they mean (which is the text, which the id)
is decided here, once for JSON lines, tables and delimited text.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import BaseModel, ConfigDict

# What of a known field says nothing.
_NOTHING = (None, "")
# A record without a text names so many of its fields: guesses that fit a line.
_NAMES, _NAME_CHARACTERS = 8, 40
# Below this a float is one integer only: its mantissa has 53 bits.
_EXACT = 2**53
UTF_8 = "utf-8"
AUTO = "auto"


class ReadOptions(BaseModel):
    """How the records of a source are to be read, as its recipe says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text_key: str = "text"
    id_key: str = "id"
    url_key: str = "url"
    language_key: str = "language"
    markup: Literal["none", "html"] = "none"
    encoding: str = UTF_8
    # Of what a tar or zip holds.
    members: str = AUTO


class Record(NamedTuple):
    """One readable record; `position` is its line or number from 1, `key` its own id or URL.

    Where `markup` says that the text is still to be got out of a page, `text` is wikitext, or the
    page's bytes lie in `page` with the `charset` that its headers name.
    """

    position: int
    key: str | None
    text: str
    url: str | None
    language: str | None
    meta: str | None
    markup: Literal["none", "html", "wikitext"] = "none"
    page: bytes = b""
    charset: str | None = None


class Damage(NamedTuple):
    """One unreadable record with its place and, for limits, what was compared."""

    position: int
    rule: str
    detail: str
    value: float | None = None
    threshold: float | None = None


def too_long(position: int, size: int, limit: int) -> Damage:
    """Say that a record is beyond the size limit."""
    return Damage(position, "record_too_long", "bytes", float(size), float(limit))


def bomb(position: int, ratio: float, limit: float) -> Damage:
    """Say that a file gives more text than its bytes can hold."""
    return Damage(position, "decompression_bomb", "times its compressed size", ratio, limit)


def invalid_utf8(position: int, error: UnicodeDecodeError) -> Damage:
    """Say where a record is no UTF-8, or not of the encoding that its source is said to have."""
    detail = f"{error.reason} at byte {error.start}"
    if error.encoding == UTF_8:
        return Damage(position, "invalid_utf8", detail)
    return Damage(position, "invalid_encoding", f"{error.encoding}: {detail}")


def columns_of(names: Sequence[str], options: ReadOptions) -> tuple[list[str], str | None]:
    """Return distinct names of a table's columns, and why its rows cannot be read, if so."""
    if len(set(names)) == len(names):
        return list(names), None
    counts = Counter(names)
    keys = (options.text_key, options.id_key, options.url_key, options.language_key)
    twice = (f"two columns are called {key}" for key in keys if counts[key] > 1)
    return distinct(names), next(twice, None)


def distinct(names: Sequence[str]) -> list[str]:
    """Number names that come again: `x, x, x` -> `x, x.1, x.2`, as pandas does."""
    taken = set(names)
    last: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        number = last.get(name, -1) + 1
        while number and f"{name}.{number}" in taken:
            number += 1
        last[name] = number
        found.append(f"{name}.{number}" if number else name)
    return found


def record_of(fields: Mapping[str, Any], position: int, options: ReadOptions) -> Record | Damage:
    """Make a record of named fields; what has no meaning of its own is kept as meta."""
    text = fields.get(options.text_key)
    if not isinstance(text, str):
        return Damage(position, "invalid_record", _no_text(fields, options.text_key))
    key = _key(fields.get(options.id_key))
    url = _string(fields.get(options.url_key))
    language = _string(fields.get(options.language_key))
    named = {options.id_key: key, options.url_key: url, options.language_key: language}
    # A known name with a value of no use, a list say, means no more than any other field.
    rest = {
        name: value
        for name, value in fields.items()
        if name != options.text_key
        and (name not in named or (named[name] is None and value not in _NOTHING))
    }
    try:
        meta = meta_of(rest) if rest else None
        page = text.encode() if options.markup == "html" else b""
    except (orjson.JSONEncodeError, UnicodeEncodeError) as error:
        return Damage(position, "invalid_record", str(error))
    return Record(
        position,
        key or url,
        "" if page else text,
        url,
        language,
        meta,
        "html" if page else "none",
        page,
        "utf-8" if page else None,
    )


def _no_text(fields: Mapping[str, Any], wanted: str) -> str:
    """Say what is in the place of a text, or which other fields there are."""
    found = f"no string under the key {wanted}"
    if fields.get(wanted) is not None:
        return f"{found}, found {type(fields[wanted]).__name__}"
    if wanted in fields or not fields:
        return found
    names = names_shown(fields)
    more = ", ..." if len(fields) > _NAMES else ""
    return f"{found}: set text_key to the one that holds the text ({', '.join(names)}{more})"


def names_shown(fields: Iterable[Any]) -> tuple[str, ...]:
    """Give the first names of a record's fields, cut, for a line that says which there are."""
    return tuple(str(name)[:_NAME_CHARACTERS] for name in islice(fields, _NAMES))


def meta_of(fields: Mapping[str, Any]) -> str:
    """Write fields as the JSON of `meta`, what JSON does not know as a string."""
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(fields, default=str, option=options).decode()


def _string(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _key(value: object) -> str | None:
    # pandas writes a column of integers with a missing one as floats: 1.0 is the id 1.
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _string(value)
