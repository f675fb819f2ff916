"""What a document, a drop and a duplicate are: their columns, identities and digests.

Rows are kept sorted by (id, file, position). The digest of a table of rows is the sum of their
SHA-256 values modulo 2^256: it needs no global sort, the digest of two sets of rows is the sum of
theirs, and equal rows give equal digests in whatever files and order they lie.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

# Raised by hand when an id, a normalized text or a digest comes out differently.
VERSION = 2

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("language", pa.string()),
        pa.field("meta", pa.string()),
        pa.field("snapshot", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("text_hash", pa.binary(16), nullable=False),
    ]
)

# One row a dropped record or document, from every stage. `snapshot` is the delivery it came with.
# `value` and `threshold` are what the rule compared; a duplicate names the surviving witness by its
# full place (snapshot, file, position), as ids may be shared.
DROP_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("snapshot", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("detail", pa.string()),
        pa.field("witness_id", pa.string()),
        pa.field("witness_snapshot", pa.string()),
        pa.field("witness_file", pa.string()),
        pa.field("witness_position", pa.int64()),
    ]
)

# `row` is the dropped document's row in the clean file of the same name.
DUPLICATE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("snapshot", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("similarity", pa.float64()),
        pa.field("witness_id", pa.string(), nullable=False),
        pa.field("witness_snapshot", pa.string(), nullable=False),
        pa.field("witness_file", pa.string(), nullable=False),
        pa.field("witness_position", pa.int64(), nullable=False),
    ]
)

KEPT_COLUMNS = ("id", "text", "source", "url", "language", "meta", "snapshot", "file", "position")

DIGEST_MODULUS = 1 << 256


def document_id(source: str, key: str | None, raw: str | bytes) -> str:
    """Name a document: source and the record's own key, or the hash of its raw text or page."""
    if key is None:
        data = raw.encode() if isinstance(raw, str) else raw
        key = "sha256-" + hashlib.sha256(data).hexdigest()[:32]
    return f"{source}/{key}"


def text_hash(text: str) -> bytes:
    """Hash the text as exact deduplication sees it: NFC, lower case, single spaces; 16 bytes."""
    normalized = " ".join(unicodedata.normalize("NFC", text).lower().split())
    return hashlib.sha256(normalized.encode()).digest()[:16]


def deal_hash(identity: str) -> int:
    """Return the 64-bit number that deals a document to its split and shard."""
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")


def digest_rows(rows: Iterable[Sequence[Any]]) -> int:
    """Digest a multiset of rows; add digests modulo 2^256 with `add_digests`."""
    total = 0
    for row in rows:
        total += int.from_bytes(hashlib.sha256(orjson.dumps(list(row))).digest(), "big")
    return total % DIGEST_MODULUS


def digest_table(table: pa.Table, columns: Sequence[str]) -> int:
    """Digest the rows of a table by the named columns; a text enters as it is."""
    return digest_rows(zip(*(table[name].to_pylist() for name in columns), strict=True))


def add_digests(digests: Iterable[str]) -> str:
    """Add digests written by `format_digest`."""
    return format_digest(sum(int(digest, 16) for digest in digests))


def format_digest(digest: int) -> str:
    """Write a digest as 64 hexadecimal digits."""
    return f"{digest % DIGEST_MODULUS:064x}"


def drop_row(**values: Any) -> dict[str, Any]:  # noqa: ANN401 - columns differ in type
    """Return a row of the drop table with absent columns as None."""
    unknown = set(values) - set(DROP_SCHEMA.names)
    assert not unknown, unknown
    return {name: values.get(name) for name in DROP_SCHEMA.names}


def drops_table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return drop rows as a table in canonical order."""
    ordered = sorted(rows, key=lambda row: (row["id"] or "", row["file"], row["position"]))
    return pa.Table.from_pylist(ordered, schema=DROP_SCHEMA)
