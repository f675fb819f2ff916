"""Snapshots whose rows are real packings of small documents, for the tests of batches."""

from pathlib import Path

import numpy as np
from pretrain_helpers import write_snapshot

from corpus.files import checksum, size_bytes, write_bytes, writing
from corpus.shards import shard_schema, write_blocks
from corpus.snapshots import ShardEntry, Snapshot, snapshot_root
from pipeline.formats import Documents, lay_documents, write_rows

FORMATS = (
    "full-sentences", "doc-sentences", "stream", "best-fit", "segment-pair", "sentence-pair",
)  # fmt: skip


def random_documents(tokens: int, seed: int) -> Documents:
    """Documents of 1 to 9 sentences of 1 to 9 tokens; two in three tokens begin a word."""
    draw = np.random.default_rng(seed)
    sentences = np.unique(np.append(np.cumsum(draw.integers(1, 10, tokens)), [0, tokens]))
    sentences = sentences[sentences <= tokens]
    count = len(sentences) - 1
    documents = np.unique(np.append(np.cumsum(draw.integers(1, 10, count)), [0, count]))
    words = draw.random(tokens) < 2 / 3
    words[sentences[:-1]] = True
    ids = draw.integers(4, 260, tokens).astype(np.uint16)
    return Documents(ids, words, sentences, documents[documents <= count])


def write_packed(store: Path, packing: str, tokens: int = 6000) -> Snapshot:
    """Write a store with one snapshot in a packing format: two sources and a validation split."""
    shards = (("books", "train", 1), ("wiki", "train", 1), ("books", "validation", 1))
    draft = write_snapshot(store, shards=shards)
    entries = tuple(
        _pack(store, draft, entry, random_documents(tokens // (1 + at), seed=at), packing)
        for at, entry in enumerate(draft.shards)
    )
    packed = draft.model_copy(update={"shards": entries})
    packed = packed.model_copy(update={"fingerprint": packed.compute_fingerprint()})
    manifest = f"{snapshot_root(str(store), draft.label)}/snapshot.json"
    write_bytes(manifest, packed.model_dump_json().encode())
    return packed


def _pack(
    store: Path, draft: Snapshot, entry: ShardEntry, documents: Documents, packing: str
) -> ShardEntry:
    size = draft.sequence_length
    layout = lay_documents(documents, packing, size)
    path = f"{snapshot_root(str(store), draft.label)}/{entry.path}"
    with writing(path) as stream:
        schema = shard_schema(size, np.uint16, draft.tokenizer, packing)
        write_blocks(stream, write_rows(documents, layout, packing, size), schema)
    changes = {"rows": layout.row_count, "size_bytes": size_bytes(path), "checksum": checksum(path)}
    return entry.model_copy(update=changes)
