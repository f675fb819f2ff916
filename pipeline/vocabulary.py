"""The tokenizer stage: train a byte-level BPE on the kept documents, or take an existing one.

Trained once, on the first snapshot's kept documents. Tasks count the words of one part each; then
one task adds the counts up and learns the merges from them. They are those that `tokenizers`' own
trainer learns from the same text: merges depend on counts with ties broken by token ids, so neither
the order of documents nor the number of parts or workers shows. Where the text runs out of pairs
that occur twice the vocabulary ends up smaller than asked for.

Adding up and learning hold every distinct word once: prose of 100 MB has 0.2 million. Where a
corpus has more than fit, `sample_fraction` picks documents by a hash of their ids.
"""

from collections.abc import Iterable, Sequence

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
from pipeline.index import column_values, open_arrow
from pipeline.jobs import Output
from pipeline.parquet import read_table
from pipeline.signatures import write_arrow
from pipeline.spans import bytes_of
from pipeline.word_counts import Words

# Raised by hand when the same text gives another tokenizer.
VERSION = 1

_MIN_FREQUENCY = 2  # as RoBERTa's own vocabulary was trained and `tokenizers` documents
# A document is in the sample where its sampling hash is below a number up to this.
SAMPLE_RANGE = 2**32

_WORDS_SCHEMA = pa.schema(
    [
        pa.field("word", pa.large_string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)


def train(texts: Iterable[str], vocab_size: int) -> bytes:
    """Learn merges from texts and return a tokenizer.json."""
    words = Words()
    words.count_texts(*flat_texts(list(texts)))
    return _define(words, vocab_size)


def _define(words: Words, vocab_size: int) -> bytes:
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
    path = words_path(task)
    write_arrow(tree.own(path), words_table(words))
    counts = {"documents": len(documents), "text_bytes": int(offsets[-1] - offsets[0])}
    return Output((path,), counts)


def words_path(task: str) -> str:
    """Return the path of a counting task's file below the snapshot."""
    return f"work/count/{task}.arrow"


def words_table(words: Words) -> pa.Table:
    """Return words and their counts in the order of their first occurrence."""
    buffers = [None, pa.py_buffer(words.offsets), pa.py_buffer(words.data)]
    column = pa.Array.from_buffers(pa.large_string(), len(words.counts), buffers)
    return pa.Table.from_arrays([column, pa.array(words.counts)], schema=_WORDS_SCHEMA)


def learn(
    tree: Tree, _task: str, store: str, config: TokenizerConfig, counted: Sequence[str]
) -> Output:
    """Learn the tokenizer from the files of counting tasks, or take an existing one.

    It goes into the store under its fingerprint.
    """
    if config.path is not None:
        tokenizer = open_tokenizer(config.path)
    else:
        words = _add_up(tree, counted)
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


def _add_up(tree: Tree, counted: Sequence[str]) -> Words:
    words = Words()
    for task in counted:
        table = open_arrow(tree.own(words_path(task)))
        words.add(*bytes_of(table["word"]), column_values(table, "count"))
    return words
