"""A member of a tar or zip archive: read as the file that it would be, unpacked.

Its format goes by its own name and first bytes, and it may be compressed. A tar within an archive
is looked into. What is no document of a format that can be read is a drop with the
member's name, so that what came in is what was kept and dropped. A document notes its member's
name in `meta`.
"""

from collections.abc import Callable, Iterator

import orjson

from corpus.archives import (
    MAX_RATIO,
    CorruptArchiveError,
    DecompressionBombError,
    MemberFile,
)
from corpus.cursor import Cursor
from corpus.formats import (
    ARCHIVES,
    SEEKING,
    SNIFF_BYTES,
    WHOLE,
    format_by_bytes,
    format_by_name,
)
from corpus.records import AUTO, Damage, Record, bomb, meta_of
from corpus.tars import NAME_CHARACTERS, read_tar

# The field of `meta`, and the names of archives and member with slashes between in it.
META_KEY = "archive_member"
_SHOWN = 100  # characters of a name that is too long
# OpenWebText is an archive of archives; no deeper. Guess.
_DEPTH = 2

# Gives the records that follow a cursor, of a format.
ReadFormat = Callable[[Cursor, str], Iterator[Record | Damage]]


class MemberReader:
    """Gives the records of members; their positions are those in the member."""

    def __init__(self, read: ReadFormat, form: str = AUTO, depth: int = 1) -> None:
        """Read members of an archive at this depth, in this format if it is not `auto`."""
        self._read = read
        self._form = form
        self._depth = depth

    def __call__(self, name: str, contents: Cursor) -> Iterator[Record | Damage]:
        """Give what a member holds; one that breaks, or is a bomb, ends with that damage.

        `DecompressionBombError` is raised where what the member is within is one.
        """
        if len(name) > NAME_CHARACTERS:
            why = f"a name of more than {NAME_CHARACTERS} characters: unpack it"
            yield Damage(1, "unread_member", f"{name[:_SHOWN]}...: {why}")
            return
        if any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
            yield Damage(1, "member_hidden", f"{name}: hidden")
            return
        position, file = 0, None
        try:
            file = MemberFile(name, contents)
            chunks = file.chunks()
            if contents.growth is not None and file.codec is not None:
                chunks = contents.growth.count(chunks)
            cursor = Cursor(chunks, growth=contents.growth)
            form = self._format(name, cursor)
            for each in self._records(cursor, form):
                position = each.position
                yield _labelled(each, name, form)
        except CorruptArchiveError as error:
            yield Damage(position + 1, "corrupt_archive", f"{name}: {error}")
        except DecompressionBombError as error:
            if file is None or error.owner is not file:
                raise
            yield _labelled(bomb(position + 1, error.ratio, MAX_RATIO), name, None)

    def _format(self, name: str, cursor: Cursor) -> str | None:
        """Tell the format; that of the recipe is for what is no archive itself."""
        found = format_by_name(name) or format_by_bytes(cursor.peek(SNIFF_BYTES)[:SNIFF_BYTES])
        return found if found in ARCHIVES or self._form == AUTO else self._form

    def _records(self, cursor: Cursor, form: str | None) -> Iterator[Record | Damage]:
        if form is None:
            why = "no format by its name and first bytes: `members` in the source can say one"
            return iter((Damage(1, "member_unknown", why),))
        if form in SEEKING:
            return iter((Damage(1, "unread_member", f"{form} in an archive: unpack it"),))
        if form != "tar":
            return self._read(cursor, form)
        if self._depth == _DEPTH:
            why = "an archive in an archive in an archive: unpack it"
            return iter((Damage(1, "unread_member", why),))
        return read_tar(cursor, MemberReader(self._read, self._form, self._depth + 1))


def _labelled(each: Record | Damage, name: str, form: str | None) -> Record | Damage:
    """Note the member with a record, or with a damage and its line or number there."""
    if isinstance(each, Damage):
        has_places = form is not None and form not in (*WHOLE, *SEEKING, "tar")
        place = f"{name}:{each.position}" if has_places else name
        return each._replace(detail=f"{place}: {each.detail}")
    fields = orjson.loads(each.meta) if each.meta else {}
    within = fields.get(META_KEY)
    if within is not None and form != "tar":  # the record's own field of that name
        fields[f"{META_KEY}.1"] = within
    fields[META_KEY] = f"{name}/{within}" if form == "tar" else name
    return each._replace(meta=meta_of(fields))
