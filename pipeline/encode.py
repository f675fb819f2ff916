"""Encode: the kept documents of a part become token ids with sentence and word starts.

Sentences end at a full stop, question or exclamation mark (also the ideographic ones) or at a line
end, each followed by white space; the white space opens the next sentence. A text is cut only
there, between a character and white space, where byte-level BPE never merges: the pieces' ids one
after another are the whole text's ids, and decoding them gives the text back exactly.

A word starts at a token that begins with white space, and after one that ends with it. Rows are
sorted by the hash that deals documents to shards, so a shard is one range of every file.
"""

import re
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.documents import KEPT_COLUMNS, deal_hash, digest_table, format_digest
from corpus.shards import token_dtype
from corpus.snapshots import Tree, tokenizer_root
from corpus.tokenizer import Tokenizer, open_tokenizer
from pipeline.clean import kept_mask, read_table
from pipeline.jobs import Output
from pipeline.signatures import write_arrow

# Raised by hand when ids, sentence starts or word starts change.
VERSION = 1

# The place between the end of a sentence and the white space after it.
_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])(?=\s)|(?<=\S)(?=[ \t]*\n)")
_DOCUMENTS_PER_BATCH = 256


class Encoded(NamedTuple):
    """One document's ids with the positions at which sentences and words start."""

    token_ids: npt.NDArray[np.int64]
    sentence_starts: npt.NDArray[np.int64]
    word_starts: npt.NDArray[np.bool_]


def split_sentences(text: str) -> list[str]:
    """Cut a text into sentences that joined give the text: `"A b. C"` -> `["A b.", " C"]`."""
    return [piece for piece in _SENTENCE_END.split(text) if piece]


class Encoder:
    """Encodes documents with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Prepare the tables that tell word starts."""
        self.tokenizer = tokenizer
        self._begins, self._ends = tokenizer.spaces()

    def encode(self, texts: list[str]) -> list[Encoded]:
        """Encode documents, each cut into its sentences."""
        sentences = [split_sentences(text) for text in texts]
        flat = self.tokenizer.encode([piece for pieces in sentences for piece in pieces])
        encoded, start = [], 0
        for pieces in sentences:
            encoded.append(self._join(flat[start : start + len(pieces)]))
            start += len(pieces)
        return encoded

    def _join(self, pieces: list[list[int]]) -> Encoded:
        lengths = [len(piece) for piece in pieces]
        ids = np.fromiter((token for piece in pieces for token in piece), np.int64, sum(lengths))
        words = self._begins[ids].copy()
        words[1:] |= self._ends[ids[:-1]]
        words[:1] = True
        return Encoded(ids, np.cumsum([0, *lengths[:-1]]), words)


@lru_cache(maxsize=2)
def _encoder(directory: str) -> Encoder:
    return Encoder(open_tokenizer(directory))


def tokens_schema(vocab_size: int) -> pa.Schema:
    """Return the schema of a tokens file."""
    ids = pa.from_numpy_dtype(token_dtype(vocab_size))
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("hash", pa.uint64(), nullable=False),
            pa.field("token_ids", pa.large_list(ids), nullable=False),
            pa.field("sentence_starts", pa.large_list(pa.uint32()), nullable=False),
            pa.field("word_starts", pa.large_list(pa.bool_()), nullable=False),
        ]
    )


def encode_part(tree: Tree, _task: str, name: str, tokenizer: tuple[str, str]) -> Output:
    """Encode the kept documents of one part with a store's tokenizer (store, fingerprint)."""
    store, fingerprint = tokenizer
    encoder = _encoder(tokenizer_root(store, fingerprint))
    documents = read_table(tree.find(f"clean/{name}.parquet"))
    documents = documents.filter(kept_mask(tree, name, len(documents)))
    ids = documents["id"].to_pylist()
    hashes = [deal_hash(identity) for identity in ids]
    order = sorted(range(len(ids)), key=lambda row: (hashes[row], ids[row]))
    documents = documents.take(pa.array(order, pa.int64()))
    encoded: list[Encoded] = []
    for batch in documents.to_batches(max_chunksize=_DOCUMENTS_PER_BATCH):
        encoded += encoder.encode(batch.column("text").to_pylist())
    table = pa.table(
        {
            "id": documents["id"],
            "hash": pa.array([hashes[row] for row in order], pa.uint64()),
            "token_ids": _lists([each.token_ids for each in encoded]),
            "sentence_starts": _lists([each.sentence_starts for each in encoded]),
            "word_starts": _lists([each.word_starts for each in encoded]),
        }
    ).cast(tokens_schema(encoder.tokenizer.vocab_size))
    path = f"tokens/{name}.arrow"
    write_arrow(tree.own(path), table)
    return Output((path,), _count(name, documents, encoded))


def _lists(arrays: list[npt.NDArray[Any]]) -> pa.Array:
    offsets = np.cumsum([0, *map(len, arrays)])
    values = np.concatenate(arrays) if arrays else np.empty(0, np.int64)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))


def _count(name: str, documents: pa.Table, encoded: list[Encoded]) -> dict[str, Any]:
    return {
        "name": name,
        "documents": len(documents),
        "tokens": sum(len(each.token_ids) for each in encoded),
        "text_bytes": sum(len(text.encode()) for text in documents["text"].to_pylist()),
        "kept_digest": format_digest(digest_table(documents, KEPT_COLUMNS)),
    }
