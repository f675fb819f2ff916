"""What a suppression list says of one document."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from corpus.forgotten import COVERED_BY, Forgotten

SCHEMA = pa.schema(
    [("id", pa.string()), ("source", pa.string()), ("url", pa.string()), ("text_hash", pa.binary())]
)


def covers(forgotten: Forgotten, row: Mapping[str, Any]) -> bool:
    """Ask of a table with this row alone."""
    values = {name: [row[name]] for name in COVERED_BY}
    return bool(forgotten.which(pa.Table.from_pydict(values, schema=SCHEMA))[0])
