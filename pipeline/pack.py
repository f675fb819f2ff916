"""Pack: token ids become fixed-length sequences in shards.

FULL-SENTENCES of the RoBERTa paper (arXiv 1907.11692, section 4.2): `<s>`, contiguous whole
sentences, `</s>`; a row may cross documents, with an extra `</s>` between them. A sentence that
does not fit opens the next row; only one longer than a row is split, and it fills the rows it is
split over. Rows never cross sources, splits or shards.

A document is dealt by a hash of its id: the lowest `validation_fraction` of the hash space is the
validation split, the rest is train, and each split is cut into equal ranges, its shards. Within a
shard documents lie in the order of their hashes. So a shard is a range of every tokens file, and
which documents it holds depends on nothing but their ids and the number of shards.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.files import writing
from corpus.recipe import Pack
from corpus.shards import Sequences, TokenIds, shard_schema, write_shard
from corpus.snapshots import Tree
from corpus.tokenizer import BOS_ID, EOS_ID, PAD_ID
from pipeline.index import open_arrow
from pipeline.jobs import Output

# Raised by hand when rows or shard membership change.
VERSION = 1

SPLITS = ("train", "validation")
_HASH_SPACE = 2**64
Int64s = npt.NDArray[np.int64]


class ShardPlan(NamedTuple):
    """One shard: where it lies and the range of document hashes [low, high) that it holds."""

    snapshot: str
    source: str
    split: str
    number: int
    low: int
    high: int

    @property
    def name(self) -> str:
        """Name of the shard's task; no label holds a plus sign."""
        return f"{self.snapshot}+{self.source}+{self.split}-{self.number:05d}"

    @property
    def path(self) -> str:
        """Path of the shard below the snapshot."""
        return f"shards/{self.snapshot}/{self.source}/{self.split}-{self.number:05d}.arrow"


class Documents(NamedTuple):
    """Documents in the order of packing.

    token_ids and word_starts: all tokens; sentences: [n + 1] token offsets of the sentences;
    documents: [m + 1] sentence offsets of the documents.
    """

    token_ids: TokenIds
    word_starts: npt.NDArray[np.bool_]
    sentences: Int64s
    documents: Int64s


def split_range(split: str, validation_fraction: float) -> tuple[int, int]:
    """Return the range of document hashes [low, high) of a split."""
    cut = int(validation_fraction * _HASH_SPACE)
    return (0, cut) if split == "validation" else (cut, _HASH_SPACE)


def plan_shards(
    tree: Tree, snapshot: str, parts_by_source: dict[str, list[str]], config: Pack, token_bytes: int
) -> list[ShardPlan]:
    """Cut every (source, split) of a delivery into shards of about the wished size."""
    plans = []
    for source in sorted(parts_by_source):
        for split in SPLITS:
            low, high = split_range(split, config.validation_fraction)
            if low == high:
                continue
            tokens, documents = _count_range(tree, parts_by_source[source], low, high)
            shards = min(documents, -(-tokens * token_bytes // config.shard_size_bytes))
            # One at least: a take-down may bring back a document where there was none.
            plans += cut_split((snapshot, source, split), max(1, shards), config)
    return plans


def cut_split(place: tuple[str, str, str], shards: int, config: Pack) -> list[ShardPlan]:
    """Cut the hashes of one (snapshot, source, split) into equal ranges, its shards."""
    low, high = split_range(place[2], config.validation_fraction)
    bounds = [low + (high - low) * number // shards for number in range(shards)] + [high]
    return [ShardPlan(*place, n, *bounds[n : n + 2]) for n in range(shards)]


def _count_range(tree: Tree, parts: Sequence[str], low: int, high: int) -> tuple[int, int]:
    tokens = documents = 0
    for part in parts:
        table, start, stop = _open_range(tree, part, low, high)
        offsets = _flat(table["token_ids"])[1]
        documents += stop - start
        tokens += int(offsets[stop] - offsets[start])
    return tokens, documents


def _open_range(tree: Tree, part: str, low: int, high: int) -> tuple[pa.Table, int, int]:
    table = open_arrow(tree.find(f"tokens/{part}.arrow"))
    hashes = table["hash"].to_numpy()
    start = int(np.searchsorted(hashes, np.uint64(low)))
    stop = len(hashes) if high == _HASH_SPACE else int(np.searchsorted(hashes, np.uint64(high)))
    return table, start, stop


def _flat(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.generic], Int64s]:
    """Return the values of a list column and its [rows + 1] offsets."""
    if not column.num_chunks:
        return np.empty(0, column.type.value_type.to_pandas_dtype()), np.zeros(1, np.int64)
    lists = column.chunk(0)
    return lists.values.to_numpy(zero_copy_only=False), lists.offsets.to_numpy()


def document_ids(tree: Tree, parts: Sequence[str], low: int, high: int) -> list[str]:
    """Return the ids of the documents of a hash range in packing order."""
    found: list[tuple[int, str]] = []
    for part in parts:
        table, start, stop = _open_range(tree, part, low, high)
        rows = table.slice(start, stop - start)
        found += zip(rows["hash"].to_pylist(), rows["id"].to_pylist(), strict=True)
    return [identity for _, identity in sorted(found)]


def read_documents(tree: Tree, parts: Sequence[str], low: int, high: int) -> Documents:
    """Read the documents of a hash range in packing order."""
    found = []
    for part in parts:
        found += list(_documents_of(tree, part, low, high))
    found.sort(key=lambda document: document[:2])
    lengths = [len(document[2]) for document in found]
    bases = np.cumsum([0, *lengths])
    sentences = [
        base + document[3].astype(np.int64)
        for base, document in zip(bases[:-1], found, strict=True)
    ]
    return Documents(
        np.concatenate([np.empty(0, np.uint16), *(document[2] for document in found)]),
        np.concatenate([np.empty(0, np.bool_), *(document[4] for document in found)]),
        np.concatenate([np.empty(0, np.int64), *sentences, bases[-1:]]),
        np.cumsum([0, *map(len, sentences)]),
    )


_Document = tuple[
    int, str, npt.NDArray[np.generic], npt.NDArray[np.generic], npt.NDArray[np.generic]
]


def _documents_of(tree: Tree, part: str, low: int, high: int) -> Iterator[_Document]:
    table, start, stop = _open_range(tree, part, low, high)
    columns = [_flat(table[name]) for name in ("token_ids", "sentence_starts", "word_starts")]
    for row in range(start, stop):
        values = [flat[offsets[row] : offsets[row + 1]] for flat, offsets in columns]
        yield table["hash"][row].as_py(), table["id"][row].as_py(), *values


def pack_shard(
    tree: Tree, _task: str, plan: ShardPlan, config: Pack, made: tuple[str, int, list[str]]
) -> Output:
    """Pack one shard; `made` is the tokenizer's fingerprint, its size and the source's parts."""
    fingerprint, vocab_size, parts = made
    documents = read_documents(tree, parts, plan.low, plan.high)
    sequences = pack_full_sentences(documents, config.sequence_length)
    dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    schema = shard_schema(config.sequence_length, dtype, fingerprint, config.format)
    with writing(tree.own(plan.path)) as stream:
        write_shard(stream, sequences, schema)
    counts = {
        "snapshot": plan.snapshot,
        "source": plan.source,
        "split": plan.split,
        "rows": len(sequences.lengths),
        "tokens": len(documents.token_ids),
    }
    return Output((plan.path,), counts)


def pack_full_sentences(documents: Documents, sequence_length: int) -> Sequences:
    """Lay documents into rows of whole sentences.

    Length 8, documents [[a b] [c d e]] and [[f]] -> `<s> a b c d e </s> <pad>`,
    `<s> f </s> <pad> ...`: the separator and f would need two more places than there are.
    """
    tokens, sentences = len(documents.token_ids), len(documents.sentences) - 1
    # A row is closed only before a sentence that does not fit, so two neighbouring rows together
    # hold more than one row's places; a document adds at most one separator.
    rows = 2 * (tokens + len(documents.documents)) // (sequence_length - 2) + min(sentences, 1) + 1
    ids = np.full((rows, sequence_length), PAD_ID, documents.token_ids.dtype)
    words = np.zeros((rows, sequence_length), np.bool_)
    used, lengths, starts, counts = _lay(documents, ids, words)
    offsets = np.concatenate([[0], np.cumsum(counts[:used])]).astype(np.int32)
    return Sequences(ids[:used], lengths[:used], words[:used], starts, offsets)


def _lay(
    documents: Documents, ids: TokenIds, words: npt.NDArray[np.bool_]
) -> tuple[int, npt.NDArray[np.int32], npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
    lengths = np.zeros(len(ids), np.int32)
    starts = np.zeros(len(documents.documents), np.uint16)
    counts = np.zeros(len(ids), np.int32)
    used, begun = _lay_rows(tuple(documents), ids, words, (lengths, starts, counts))
    return used, lengths, starts[:begun], counts


@numba.njit(cache=True)
def _lay_rows(documents, ids, words, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    token_ids, word_starts, sentences, document_ends = documents
    lengths, starts, counts = out
    limit = ids.shape[1] - 1  # the last place is for </s>
    row, at, begun = 0, 0, 0  # at: the next free place of the row; 0 where it is not open
    for document in range(len(document_ends) - 1):
        fresh = True
        for sentence in range(document_ends[document], document_ends[document + 1]):
            start, stop = sentences[sentence], sentences[sentence + 1]
            while start < stop:
                separator = 1 if fresh and at > 1 else 0
                room = limit - at - separator
                whole = stop - start <= limit - 1
                if at > 0 and (room < stop - start if whole else room < 1):
                    ids[row, at] = EOS_ID
                    lengths[row] = at + 1
                    row, at = row + 1, 0
                    continue
                if at == 0:
                    ids[row, 0] = BOS_ID
                    at, separator = 1, 0
                if separator:
                    ids[row, at] = EOS_ID
                    at += 1
                if fresh:
                    starts[begun] = at
                    begun += 1
                    counts[row] += 1
                    fresh = False
                taken = min(stop - start, limit - at)
                for k in range(taken):
                    ids[row, at + k] = token_ids[start + k]
                    words[row, at + k] = word_starts[start + k]
                at += taken
                start += taken
    if at > 0:
        ids[row, at] = EOS_ID
        lengths[row] = at + 1
        row += 1
    return row, begun
