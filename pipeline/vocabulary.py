"""The tokenizer stage: train a byte-level BPE on the kept documents, or take an existing one.

Trained once, on the first snapshot's kept documents; `tokenizers`' own trainer is the reference.
Its merges depend on pair counts with ties broken by token ids, so neither the order of documents
nor the number of workers shows. Where the text runs out of pairs that occur twice the vocabulary
ends up smaller than asked for.
"""

from collections.abc import Iterator, Sequence

import orjson
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from corpus.files import create, join
from corpus.recipe import Tokenizer as TokenizerConfig
from corpus.snapshots import Tree, tokenizer_root
from corpus.tokenizer import (
    LEADING_SPECIALS,
    Tokenizer,
    build_definition,
    byte_alphabet,
    open_tokenizer,
    tokenizer_files,
)
from pipeline.clean import kept_mask, read_table
from pipeline.jobs import Output

# Raised by hand when the same text gives another tokenizer.
VERSION = 1

_MIN_FREQUENCY = 2  # as RoBERTa's own vocabulary was trained and `tokenizers` documents


def train(texts: Iterator[str], vocab_size: int) -> bytes:
    """Learn merges from texts and return a tokenizer.json."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,  # <mask> comes last
        min_frequency=_MIN_FREQUENCY,
        show_progress=False,
        special_tokens=list(LEADING_SPECIALS),
        initial_alphabet=sorted(byte_alphabet().values()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = orjson.loads(tokenizer.to_str())["model"]["merges"]
    return build_definition([(left, right) for left, right in merges])


def make_tokenizer(
    tree: Tree, _task: str, store: str, config: TokenizerConfig, parts: Sequence[str]
) -> Output:
    """Train or load the tokenizer and put it into the store under its fingerprint."""
    if config.path is not None:
        tokenizer = open_tokenizer(config.path)
    else:
        tokenizer = Tokenizer(train(_kept_texts(tree, parts), config.vocab_size))
    for name, data in tokenizer_files(tokenizer).items():
        create(join(tokenizer_root(store, tokenizer.fingerprint), name), data)
    counts = {"fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size}
    return Output((), counts)


def _kept_texts(tree: Tree, parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        texts = read_table(tree.find(f"clean/{part}.parquet"), columns=["text"])
        for batch in texts.filter(kept_mask(tree, part, len(texts))).to_batches(1024):
            yield from batch.column("text").to_pylist()
