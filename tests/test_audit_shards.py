"""Tokens that spell another text are told, whichever document of a part they are of."""

import numpy as np
import pyarrow as pa
import pytest

from corpus.tokenizer import Tokenizer, build_definition
from pipeline.audit_shards import _misspelt
from pipeline.encode import tokens_schema

TOKENIZER = Tokenizer(build_definition([("a", "b"), ("ab", "c")]))
TEXTS = {"s/1": "abc ab", "s/2": "", "s/3": "été abab", "s/4": "c"}


def tokens_of(texts: dict[str, str]) -> pa.Table:
    """Encode texts as a tokens file holds them, in another order than theirs."""
    names = sorted(texts, reverse=True)
    ids = [TOKENIZER.encode([texts[name]])[0] for name in names]
    columns = {
        "id": names,
        "hash": range(len(names)),
        "token_ids": ids,
        "sentence_starts": [[0]] * len(names),
        "word_starts": [[True] * len(each) for each in ids],
    }
    schema = tokens_schema(TOKENIZER.vocab_size)
    table = pa.table({name: list(values) for name, values in columns.items()}, schema=schema)
    # In two batches, the second of which begins in the middle of its buffers.
    return pa.Table.from_batches(
        [table.to_batches()[0].slice(0, 1), table.to_batches()[0].slice(1)]
    )


KEPT = pa.table({"id": [*TEXTS], "text": [*TEXTS.values()]})


def test_tokens_spell_their_texts() -> None:
    assert _misspelt(tokens_of(TEXTS), KEPT, TOKENIZER) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s/1", "abc aa"),  # another byte
        ("s/1", "abc a"),  # one less
        ("s/1", "abc abc"),  # one more
        ("s/2", "a"),
        ("s/3", "ete abab"),
        ("s/4", ""),
    ],
)
def test_another_text_is_told(name: str, text: str) -> None:
    assert _misspelt(tokens_of(TEXTS | {name: text}), KEPT, TOKENIZER) == [name]


def test_special_tokens_are_as_they_are_spelt() -> None:
    tokens = tokens_of({"s/4": "<mask>"})
    ids = tokens["token_ids"].combine_chunks()
    assert TOKENIZER.mask_id not in ids.values.to_numpy()
    special = pa.LargeListArray.from_arrays(
        np.array([0, 1]), pa.array([TOKENIZER.mask_id], ids.type.value_type)
    )
    spelt = tokens.slice(0, 1).set_column(2, tokens.schema.field(2), special)
    kept = pa.table({"id": ["s/4"], "text": ["<mask>"]})
    assert _misspelt(spelt, kept, TOKENIZER) == []
