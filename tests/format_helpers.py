"""Documents by the lengths of their sentences, rows to read, and shards of a format."""

import io
from collections.abc import Sequence
from itertools import pairwise
from string import ascii_letters

import numpy as np
from hypothesis import strategies as st

from corpus.files import write_bytes
from corpus.shards import Sequences, Shard, shard_schema, write_blocks
from pipeline.formats import Documents, lay_documents, write_rows

FORMATS = (
    "full-sentences", "doc-sentences", "stream", "best-fit", "segment-pair", "sentence-pair",
)  # fmt: skip
BOS, PAD, EOS = 0, 1, 2


def lay_out(lengths: Sequence[Sequence[int]], first: int = 10) -> Documents:
    """Return documents with sentences of these lengths, whose tokens count up from `first`."""
    flat = [length for document in lengths for length in document]
    total = sum(flat)
    return Documents(
        (np.arange(total) % 60_000 + first).astype(np.uint16),
        np.arange(total) % 3 == 0,
        np.cumsum([0, *flat]),
        np.cumsum([0, *map(len, lengths)]),
    )


def pack_documents(documents: Documents, packing: str, size: int) -> Sequences:
    """Return all rows of a format at once, for numbers of rows that one block holds."""
    (block,) = write_rows(documents, lay_documents(documents, packing, size), packing, size)
    return block


def rows_of(sequences: Sequences) -> list[str]:
    """Return rows readable: letters for tokens, <, > and . for the special ones."""
    signs = {BOS: "<", EOS: ">", PAD: "."} | dict(enumerate(ascii_letters, 10))
    return ["".join(map(signs.__getitem__, row)) for row in sequences.token_ids.tolist()]


def starts_of(sequences: Sequences) -> list[list[int]]:
    return [
        sequences.document_starts[start:stop].tolist()
        for start, stop in pairwise(sequences.document_offsets)
    ]


SENTENCES = st.lists(st.lists(st.integers(0, 20), max_size=6), max_size=12)
SIZES = st.integers(8, 14)


def reopen(documents: Documents, packing: str, size: int) -> Shard:
    """Write documents as a shard and open it."""
    blocks = write_rows(documents, lay_documents(documents, packing, size), packing, size)
    stream = io.BytesIO()
    write_blocks(stream, blocks, shard_schema(size, np.uint16, "f" * 64, packing))
    path = "memory://formats/train-00000.arrow"
    write_bytes(path, stream.getvalue())
    return Shard(path)


def gather_documents(shard: Shard) -> dict[int, list[tuple[int, list[int], list[bool]]]]:
    """Return every document's pieces by their places in it."""
    every = np.arange(shard.rows)
    ids, words = shard.token_ids(every), shard.word_starts(every)
    found: dict[int, list[tuple[int, list[int], list[bool]]]] = {}
    for row, start, stop, document, offset in zip(*shard.pieces(), strict=True):
        piece = ids[row, start:stop].tolist(), words[row, start:stop].tolist()
        found.setdefault(int(document), []).append((int(offset), *piece))
    return {document: sorted(found[document]) for document in sorted(found)}
