"""The tokenizer stage: train a byte-level BPE on the kept documents, or take an existing one.

Trained once, on the first snapshot's kept documents. Tasks count the words of one part each; other
tasks add the counts up, each those of one range of the words' hashes, as many as keep each small;
one learns the merges from them. They are those that `tokenizers`' own trainer learns from the same
text: merges depend on counts with ties broken by token ids, so neither the order of documents nor
the number of parts, ranges or workers shows. Where the text runs out of pairs that occur twice the
vocabulary ends up smaller than asked for.

Learning holds every distinct word once (`python -m benchmarks.bpe` prints its memory). Where a
corpus has more than fit, `sample_fraction` picks documents by a hash of their ids.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from corpus.documents import deal_hash
from corpus.encoding import flat_texts
from corpus.files import create, join
from corpus.recipe import Tokenizer as TokenizerConfig
from corpus.snapshots import Tree, tokenizer_root
from corpus.tokenizer import (
    LEADING_SPECIALS,
    Tokenizer,
    build_definition,
    byte_alphabet,
    collector_paused,
    open_tokenizer,
    tokenizer_files,
)
from pipeline.bpe import learn_merges
from pipeline.clean import kept_mask
from pipeline.index import column_values
from pipeline.jobs import Output
from pipeline.parquet import read_table
from pipeline.signatures import write_arrow
from pipeline.spans import bytes_of
from pipeline.stretch import open_arrow
from pipeline.word_counts import Counted, Words

# Raised by hand when the same text gives another tokenizer.
VERSION = 1

_MIN_FREQUENCY = 2  # as RoBERTa's own vocabulary was trained and `tokenizers` documents
# A document is in the sample where its sampling hash is below a number up to this.
SAMPLE_RANGE = 2**32

# What one task adds up, about, as it lies in the files of counts; what it holds is less, as the
# files of most parts have the same words. Guess.
SHARE_BYTES = 2**30

_WORDS_SCHEMA = pa.schema(
    [
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("word", pa.large_string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """Learn merges from texts and return a tokenizer.json."""
    words = Words()
    words.count_texts(*flat_texts(list(texts)))
    return _define(words.counted, vocab_size)


def _define(words: Counted, vocab_size: int) -> bytes:
    others = len(LEADING_SPECIALS) + len(byte_alphabet()) + 1  # <mask> comes last
    with collector_paused():
        return build_definition(learn_merges(words, vocab_size - others, _MIN_FREQUENCY))


def sampling_hash(identity: str) -> int:
    """Return the number that says whether a document is in a sample: of other bits than dealing."""
    return deal_hash(identity) % SAMPLE_RANGE


def sample_below(config: TokenizerConfig) -> int:
    """Return the number below which the sampling hash of a document has to be."""
    return round(config.sample_fraction * SAMPLE_RANGE)


def count_part(tree: Tree, task: str, name: str, below: int) -> Output:
    """Count the words of a part's kept documents, of those whose sampling hash is below a number.

    The file, of words with their counts, is named after the task.
    """
    documents = read_table(
        tree.find(f"clean/{name}.parquet"),
        columns=["id", "text"],
        use_threads=False,
        pre_buffer=False,
    )
    documents = documents.filter(kept_mask(tree, name, len(documents)))
    if below < SAMPLE_RANGE:
        sampled = [sampling_hash(each) < below for each in documents["id"].to_pylist()]
        documents = documents.filter(pa.array(sampled, pa.bool_()))
    words = Words()
    data, offsets = bytes_of(documents["text"])
    words.count_texts(data, offsets)
    path = f"work/count-words/{task}.arrow"
    table = words_table(words)
    write_arrow(tree.own(path), table)
    counts = {
        "documents": len(documents),
        "text_bytes": int(offsets[-1] - offsets[0]),
        "words_bytes": table.nbytes,
    }
    return Output((path,), counts)


def words_table(words: Words) -> pa.Table:
    """Return words and their counts in the order of the words' hashes."""
    data, offsets, counts = words.counted
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    column = pa.Array.from_buffers(pa.large_string(), len(counts), buffers)
    columns = [pa.array(words.hashes), column, pa.array(counts)]
    order = np.argsort(words.hashes, kind="stable")
    return pa.Table.from_arrays(columns, schema=_WORDS_SCHEMA).take(order)


def count_shares(words_bytes: int) -> int:
    """Return how many tasks add up counts of so many bytes."""
    return max(1, -(-words_bytes // SHARE_BYTES))


def add_up(tree: Tree, task: str, share: tuple[int, int], counted: Sequence[str]) -> Output:
    """Add up the counts of the words of a share, (number, of how many), from counting tasks' files.

    A share is a range of the words' hashes: no word is in two, and each file has it in one piece.
    """
    number, total = share
    words = Words()
    for path in counted:
        table = open_arrow(tree.own(path))
        hashes = column_values(table, "hash")
        start, stop = (
            len(hashes) if n == total else np.searchsorted(hashes, np.uint64(n * 2**64 // total))
            for n in (number, number + 1)
        )
        words.add(_counted(table[start:stop]))
    path = f"work/add-words/{task}.arrow"
    write_arrow(tree.own(path), words_table(words))
    return Output((path,), {"words": len(words.hashes)})


def _counted(table: pa.Table) -> Counted:
    return Counted(*bytes_of(table["word"]), column_values(table, "count"))


def learn(
    tree: Tree, _task: str, store: str, config: TokenizerConfig, added: Sequence[str]
) -> Output:
    """Learn the tokenizer from the files of counts that were added up, or take an existing one.

    It goes into the store under its fingerprint.
    """
    if config.path is not None:
        tokenizer = open_tokenizer(config.path)
    else:
        tables = [open_arrow(tree.own(path)) for path in added]
        words = _counted(pa.concat_tables([_WORDS_SCHEMA.empty_table(), *tables]))
        if not len(words.counts):
            raise ValueError(
                f"tokenizer.sample_fraction {config.sample_fraction:g} leaves no text to learn "
                "from: raise it"
            )
        tokenizer = Tokenizer(_define(words, config.vocab_size))
    for name, data in tokenizer_files(tokenizer).items():
        create(join(tokenizer_root(store, tokenizer.fingerprint), name), data)
    counts = {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size}
    return Output((), counts)
