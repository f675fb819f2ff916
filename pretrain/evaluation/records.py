"""Files of labelled data as records: a place, the values of its roles, or what is wrong with it.

Every format reader gives `Record`s; examples.py judges the values. A file is read whole, plain or
compressed, at most `MAX_FILE_BYTES` of it. A line that cannot be read costs that line only.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from corpus.archives import CorruptArchiveError, DecompressionBombError, InputFile
from corpus.files import join, list_names

# The largest set in use, MNLI, has 80 MB; ten of QQP's size fit. A guess that guards the memory.
MAX_FILE_BYTES = 2**30

NOT_TEXT = "not in the encoding of the task"
WRONG_COLUMNS = "wrong number of columns"


class Record(NamedTuple):
    """One example as a file has it: where, its values by role, and a fault where it has none."""

    place: str
    roles: dict[str, Any]
    fault: str = ""
    names: tuple[str, ...] = ()  # its columns, where one of a role is not among them

    def tell(self, reason: str) -> str:
        """Say why it cannot be used, and what it has in the place of what it lacks."""
        is_lacking = self.names and reason.startswith("no ")
        has = f" (it has {', '.join(self.names)}: set columns)" if is_lacking else ""
        return f"{self.place}: {reason}{has}"


class Line(NamedTuple):
    """A line of a file, numbered from 1; `text` is None where it is not in its encoding."""

    number: int
    text: str | None


def files_of(path: str) -> list[str]:
    """Return a file as it is; of a directory the files below it, sorted, without hidden ones."""
    if not Path(path).is_dir():
        return [path]
    return [join(path, name) for name in list_names(path) if not Path(name).name.startswith(".")]


def read_file(path: str) -> bytes:
    """Return the decompressed content of a file; `ValueError` where it is broken or too large."""
    try:
        return _bounded(path, InputFile(path).chunks())
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}") from None
    except CorruptArchiveError as error:
        raise ValueError(f"{path} cannot be decompressed: {error}: fetch it again") from None
    except DecompressionBombError as error:
        raise ValueError(f"{path} unpacks to {error}, more than text does") from None


def read_open(name: str, stream: BinaryIO) -> bytes:
    """Return what a stream holds."""
    return _bounded(name, iter(lambda: stream.read(2**20), b""))


def _bounded(name: str, chunks: Iterator[bytes]) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"{name} has more than {MAX_FILE_BYTES:,} bytes: split it")
    return bytes(data)


def lines_of(data: bytes, encoding: str, first: int = 1) -> Iterator[Line]:
    """Give the lines of a file; only line feeds end them, and a byte order mark is no text.

    Of a portion of a file, `first` is the number of its first line.
    """
    utf8 = encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-8-sig")
    if utf8:
        data = data.removeprefix(b"\xef\xbb\xbf")
    for number, raw in enumerate(data.split(b"\n"), first):
        try:
            yield Line(number, raw.removesuffix(b"\r").decode("utf-8" if utf8 else encoding))
        except UnicodeDecodeError:
            yield Line(number, None)


def documents_of(name: str, data: bytes) -> list[tuple[str, Any]]:
    """Return the JSON documents of a file, one in all or one a line, each with its place."""
    try:
        return [(name, orjson.loads(data))]
    except orjson.JSONDecodeError as whole:
        documents = []
        for number, line in enumerate(data.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                documents.append((f"{name}:{number}", orjson.loads(line)))
            except orjson.JSONDecodeError:
                raise ValueError(f"{name} is not JSON: {whole}") from None
        return documents


def usual(numbers: list[int]) -> int:
    """Return the most frequent number, the larger one of equals: how many columns a file has."""
    counts = Counter(numbers)
    return max(counts, key=lambda number: (counts[number], number))
