"""What reading a raw file gives: records, and damage in the place of what cannot be read."""

from typing import Literal, NamedTuple


class Record(NamedTuple):
    """One readable record; `position` counts records from 1, `key` is its own id or URL.

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


class Keys(NamedTuple):
    """Under which names the fields of a record are found, and what its text is written in."""

    text: str = "text"
    id: str = "id"
    url: str = "url"
    language: str = "language"
    markup: Literal["none", "html"] = "none"


def too_long(position: int, size: int, limit: int) -> Damage:
    """Return the damage of a record beyond the size limit, bytes."""
    return Damage(position, "record_too_long", "bytes", float(size), float(limit))
