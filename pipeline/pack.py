"""Pack: token ids become fixed-length sequences in shards.

A shard is a range of hashes of ids (plans.py), so a range of every tokens file; within it documents
lie in the order of their hashes. How they lie in rows is the format's matter (formats.py); rows
never cross sources, splits or shards.
"""

from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from corpus.files import writing
from corpus.membership import ShardPlan
from corpus.recipe import Pack
from corpus.shards import TokenIds, shard_schema, token_dtype, write_blocks
from corpus.snapshots import Tree
from pipeline.formats import Documents, lay_documents, write_rows
from pipeline.index import look_at
from pipeline.jobs import Output
from pipeline.kernels import Int64s, UInt64s
from pipeline.plans import TokenFiles, offsets_of, open_range

# Raised by hand when rows or shard membership change.
VERSION = 1


class Dealt(NamedTuple):
    """The documents of a range of hashes in packing order."""

    ids: pa.ChunkedArray
    hashes: UInt64s
    documents: Documents


def read_documents(tree: Tree, paths: Sequence[str], low: int, high: int) -> Dealt:
    """Read the documents of a range of hashes [low, high) from tokens files."""
    ranges = look_at(tree, lambda path: _read_range(tree, path, low, high), paths)
    hashes = np.concatenate([np.empty(0, np.uint64), *(each.hashes for each in ranges)])
    ids = pa.chunked_array([chunk for each in ranges for chunk in each.ids.chunks], pa.string())
    order = _packing_order(hashes, ids)
    return Dealt(ids.take(pa.array(order)), hashes[order], _merge(ranges, order))


def _merge(ranges: "Sequence[_Range]", order: Int64s) -> Documents:
    lengths = np.concatenate([_NONE, *(np.diff(each.token_offsets) for each in ranges)])
    counts = np.concatenate([_NONE, *(np.diff(each.sentence_offsets) for each in ranges)])
    # Where each document, in the order of the parts, goes among tokens and sentences.
    tokens, sentences = np.empty_like(lengths), np.empty_like(counts)
    tokens[order] = np.cumsum(lengths[order]) - lengths[order]
    sentences[order] = np.cumsum(counts[order]) - counts[order]
    ids = [np.empty(0, np.uint16), *(each.token_ids[:0] for each in ranges)]
    merged = Documents(
        np.empty(int(lengths.sum()), np.result_type(*ids)),
        np.empty(int(lengths.sum()), np.bool_),
        np.full(int(counts.sum()) + 1, lengths.sum()),
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts[order])]),
    )
    done = 0
    for each in ranges:
        there = slice(done, done + len(each.hashes))
        done = there.stop
        _merge_range(tuple(each[2:]), tokens[there], sentences[there], tuple(merged[:3]))
    return merged


_NONE = np.empty(0, np.int64)


class _Range(NamedTuple):
    """The documents of a range of hashes in one tokens file; offsets are into the arrays here."""

    hashes: UInt64s
    ids: pa.ChunkedArray
    token_ids: TokenIds
    word_starts: npt.NDArray[np.bool_]
    token_offsets: Int64s
    sentence_starts: npt.NDArray[np.uint32]
    sentence_offsets: Int64s


def _read_range(tree: Tree, path: str, low: int, high: int) -> _Range:
    table, start, stop = open_range(tree, path, low, high)
    arrays = []
    for name in ("token_ids", "word_starts", "sentence_starts"):
        offsets = offsets_of(table[name], start, stop)
        values = pa.array([], table[name].type.value_type)
        if stop > start:
            values = table[name].chunk(0).values.slice(offsets[0], offsets[-1] - offsets[0])
        arrays.append((np.array(values.to_numpy(zero_copy_only=False)), offsets - offsets[0]))
    (ids, token_offsets), (words, _), (sentences, sentence_offsets) = arrays
    # Copies, so that of all files none is held: a process may map some 65,000 of them.
    rows = table.select(["hash", "id"]).take(pa.array(np.arange(start, stop)))
    return _Range(
        rows["hash"].to_numpy(), rows["id"], ids, words, token_offsets, sentences, sentence_offsets
    )


def _packing_order(hashes: UInt64s, ids: pa.ChunkedArray) -> Int64s:
    """Sort documents by hash, those of one hash by id."""
    order = np.argsort(hashes, kind="stable")
    sorted_hashes = hashes[order]
    if (sorted_hashes[1:] == sorted_hashes[:-1]).any():
        names = ids.to_pylist()
        order = np.array(sorted(order.tolist(), key=lambda place: (hashes[place], names[place])))
    return order


@numba.njit(cache=True)
def _merge_range(given, tokens, sentences, out):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Copy a part's documents to their places among the tokens and the sentences."""
    ids, words, token_offsets, starts, start_offsets = given
    for document in range(len(tokens)):
        low, high, at = token_offsets[document], token_offsets[document + 1], tokens[document]
        out[0][at : at + high - low] = ids[low:high]
        out[1][at : at + high - low] = words[low:high]
        place = sentences[document]
        for sentence in range(start_offsets[document], start_offsets[document + 1]):
            out[2][place] = at + starts[sentence]
            place += 1


def pack_shard(
    tree: Tree,
    _task: str,
    plan: ShardPlan,
    made_with: tuple[Pack, tuple[str, int]],
    source: TokenFiles,
) -> Output:
    """Pack one shard of a source; `made_with` is what `write_shard` takes."""
    paths = source.within(plan.low, plan.high)
    documents = read_documents(tree, paths, plan.low, plan.high).documents
    with writing(tree.own(plan.path)) as stream:
        rows = write_shard(stream, documents, *made_with)
    counts = {
        "snapshot": plan.snapshot,
        "source": plan.source,
        "split": plan.split,
        "rows": rows,
        "tokens": len(documents.token_ids),
    }
    return Output((plan.path,), counts)


def write_shard(
    stream: BinaryIO, documents: Documents, config: Pack, tokenizer: tuple[str, int]
) -> int:
    """Lay documents in rows and write them; return how many rows.

    `tokenizer` is its fingerprint and its size.
    """
    layout = lay_documents(documents, config.format, config.sequence_length)
    blocks = write_rows(documents, layout, config.format, config.sequence_length)
    dtype = token_dtype(tokenizer[1])
    schema = shard_schema(config.sequence_length, dtype, tokenizer[0], config.format)
    write_blocks(stream, blocks, schema)
    return layout.row_count
