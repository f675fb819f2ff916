"""Pieces give the ids of the whole text; starts are where they should be; rows are in order."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stage_helpers import Given, clean_parts, deduplicate, spread, unhurried

from corpus.documents import KEPT_COLUMNS, deal_hash, digest_table, format_digest
from corpus.recipe import Dedup
from corpus.recipe import Tokenizer as TokenizerConfig
from corpus.snapshots import Tree
from corpus.tokenizer import Tokenizer, build_definition
from pipeline.clean import clean_text, kept_mask, read_table
from pipeline.encode import Encoder, encode_part, split_sentences, tokens_schema
from pipeline.index import open_arrow
from pipeline.vocabulary import make_tokenizer

# Merges over every boundary that a cut could harm: spaces, newlines, full stops.
MERGES = [
    ("\u0120", "\u0120"), ("\u0120\u0120", "\u0120"), ("\u010a", "\u010a"), (".", "."), ("..", "."),
    ("\u0120", "a"), ("\u0120", "."), ("\u010a", "\u0120"), ("\u0120", "\u010a"), ("a", "b"),
    ("\u00e3", "\u0122"), ("\u00e3\u0122", "\u0124"), ("'", "s"), ("\u0109", "\u0109"),
]  # fmt: skip
TOKENIZER = Tokenizer(build_definition(MERGES))
ENCODER = Encoder(TOKENIZER)

WHITE = " \n\t\u00a0\u1680\u2000\u2028\u2029\u202f\u205f\u3000\u200b\u180e"
NASTY = st.text(
    st.sampled_from(WHITE + "ab.!?\u3002\uff01\uff1f\u2026'\"<s>mk1\u4f60\u0301\U0001f600-"),
    max_size=60,
) | st.text(max_size=60)


@settings(unhurried, max_examples=400)
@given(st.lists(NASTY.map(clean_text).filter(bool), min_size=1, max_size=4))
@example(["a.  b. \n\n c?\u3000d\u3002 e\u00a0.\n f"])
@example(["<s>.\n<mask>. <mask>"])
@example(["it's. 's\n's"])
def test_pieces_are_the_whole(texts: list[str]) -> None:
    special = {0, 1, 2, 3, TOKENIZER.mask_id}
    for text, found, whole in zip(
        texts, ENCODER.encode(texts), TOKENIZER.encode(texts), strict=True
    ):
        assert found.token_ids.tolist() == whole
        assert TOKENIZER.decode(found.token_ids.tolist()) == text
        assert not special & set(whole)
        assert len(found.word_starts) == len(whole)
        assert found.sentence_starts[0] == 0
        assert (np.diff(found.sentence_starts) > 0).all()
        assert found.sentence_starts[-1] < len(whole)


@unhurried
@given(NASTY)
def test_sentences_joined_are_the_text(text: str) -> None:
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    assert all(pieces)
    for before, after in pairwise(pieces):
        assert after[0].isspace()
        assert not before[-1].isspace()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A b. C", ["A b.", " C"]),
        ("One! Two? Three.", ["One!", " Two?", " Three."]),
        ("Line one\nline two\n\nline three", ["Line one", "\nline two", "\n\nline three"]),
        ("End.\n Next", ["End.", "\n Next"]),
        ("Trailing  \n next", ["Trailing", "  \n next"]),
        ("3.14 and e.g. this", ["3.14 and e.g.", " this"]),
        ("\u4f60\u3002 \u597d\uff01\n\u597d", ["\u4f60\u3002", " \u597d\uff01", "\n\u597d"]),
        ("no end", ["no end"]),
        ("", []),
        ("...", ["..."]),
    ],
)  # fmt: skip
def test_sentences_by_hand(text: str, pieces: list[str]) -> None:
    assert split_sentences(text) == pieces


def test_starts_by_hand() -> None:
    """Tokens ab | . | ␣a | . | \\n | ab | ␣␣ | ␣ | b of "ab. a.\\nab   b"."""
    (found,) = ENCODER.encode(["ab. a.\nab   b"])
    pieces = TOKENIZER.token_bytes()
    assert [pieces[token] for token in found.token_ids] == [
        b"ab", b".", b" a", b".", b"\n", b"ab", b"  ", b" ", b"b",
    ]  # fmt: skip
    assert found.sentence_starts.tolist() == [0, 2, 4]
    assert found.word_starts.tolist() == [
        True, False, True, False, True, True, True, True, True,
    ]  # fmt: skip


DOCUMENTS = [Given(f"{n}", f"Text {n} of {n * n}. Another\nline.") for n in range(40)]
DOCUMENTS += [Given("copy", DOCUMENTS[0].text), Given("copy2", DOCUMENTS[1].text.upper())]
CONFIG = Dedup(partitions=1)


@pytest.fixture
def encoded(tmp_path: Path) -> tuple[list[str], dict[str, dict[str, object]], Tokenizer]:
    tree, store = Tree(str(tmp_path)), str(tmp_path / "store")
    names = clean_parts(tree, spread(DOCUMENTS, [0, 20]), CONFIG)
    deduplicate(tree, names, CONFIG)
    made = make_tokenizer(tree, "t", store, TokenizerConfig(vocab_size=300), names)
    fingerprint = made.counts["fingerprint"]
    outputs = {name: encode_part(tree, f"{name}-x", name, (store, fingerprint)) for name in names}
    definition = (tmp_path / "store" / "tokenizer" / fingerprint / "tokenizer.json").read_bytes()
    assert {output.paths for output in outputs.values()} == {(f"tokens/{n}.arrow",) for n in names}
    return names, {name: output.counts for name, output in outputs.items()}, Tokenizer(definition)


def test_a_part_is_encoded_whole(
    tmp_path: Path, encoded: tuple[list[str], dict[str, dict[str, object]], Tokenizer]
) -> None:
    names, counts, tokenizer = encoded
    seen = 0
    for name in names:
        table = open_arrow(f"{tmp_path}/tokens/{name}.arrow")
        assert table.schema == tokens_schema(tokenizer.vocab_size)
        documents = read_table(f"{tmp_path}/clean/{name}.parquet")
        kept = documents.filter(pa.array(kept_mask(Tree(str(tmp_path)), name, len(documents))))
        texts = dict(zip(kept["id"].to_pylist(), kept["text"].to_pylist(), strict=True))
        rows = table.to_pylist()
        assert {row["id"]: tokenizer.decode(row["token_ids"]) for row in rows} == texts
        assert [row["hash"] for row in rows] == [deal_hash(row["id"]) for row in rows]
        order = [(row["hash"], row["id"]) for row in rows]
        assert order == sorted(order)
        assert counts[name] == {
            "name": name,
            "documents": len(rows),
            "tokens": sum(len(row["token_ids"]) for row in rows),
            "text_bytes": sum(len(text.encode()) for text in texts.values()),
            "kept_digest": format_digest(digest_table(kept, KEPT_COLUMNS)),
        }
        seen += len(rows)
    assert seen == 40
    assert counts[names[0]]["documents"] == 0


def test_ids_of_a_large_vocabulary_are_wider() -> None:
    for size, expected in ((65536, pa.uint16()), (65537, pa.uint32())):
        assert tokens_schema(size).field("token_ids").type.value_type == expected
