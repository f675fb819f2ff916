"""What the index of a part holds: its columns, and what each band of a key means."""

import hashlib

import numpy as np
import pyarrow as pa

from pipeline.preference import PREFERENCE_BYTES

# Bands above 250 hold whole-value hashes, so that every kind of edge is found by one grouping.
SET_BAND, EXACT_BAND, ID_BAND = 253, 254, 255

KEY_SCHEMA = pa.schema([("key", pa.uint64()), ("band", pa.uint8()), ("row", pa.uint32())])
INDEX_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("file", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("text_hash", pa.binary(16), nullable=False),
        pa.field("set_hash", pa.binary(16)),
        pa.field("text_bytes", pa.int64(), nullable=False),
        pa.field("preference", pa.binary(PREFERENCE_BYTES), nullable=False),
    ]
)


def salt_of(scope: str) -> np.uint64:
    """Return what keeps the keys of different scopes apart: 0 for the whole corpus."""
    digest = hashlib.sha256(scope.encode()).digest() if scope else bytes(8)
    return np.uint64(int.from_bytes(digest[:8], "big"))
