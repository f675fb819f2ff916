"""Pieces give the ids of the whole text; starts are where they should be; rows are in order."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from stage_helpers import Given, clean_parts, deduplicate, spread
from test_vocabulary import count_and_learn

from corpus.documents import KEPT_COLUMNS, deal_hash, digest_table, format_digest
from corpus.encoding import FlatEncoder, Tokens, flat_texts
from corpus.recipe import Dedup
from corpus.recipe import Tokenizer as TokenizerConfig
from corpus.snapshots import Tree
from corpus.tokenizer import Tokenizer, build_definition
from pipeline import encode
from pipeline.clean import kept_mask
from pipeline.encode import (
    CHECKED_BYTES,
    Encoder,
    Texts,
    cut_texts,
    encode_part,
    tokens_schema,
)
from pipeline.normalize import normalize_text
from pipeline.parquet import read_table
from pipeline.reference import words_of
from pipeline.split import split_sentences
from pipeline.stretch import open_arrow

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

# Letters of scripts with and without spaces, marks, digits, punctuation and spaces.
WORDY = st.sampled_from(
    "ab\u00e9\u4f60\u597d\u3046\u3099\u0e01\u0e34\U0002000012.,\u3002'- \u3000\n"
)


def cleaned(text: str) -> str:
    return normalize_text(text, fix_mojibake=False)


class One(NamedTuple):
    """What a tokens file says of one document."""

    token_ids: list[int]
    sentence_starts: list[int]
    word_starts: list[bool]


def encode_texts(encoder: Encoder, texts: list[str]) -> list[One]:
    found = encoder.encode(cut_texts(*flat_texts(texts)))
    columns = [
        (found.token_ids, found.token_offsets),
        (found.sentence_starts, found.sentence_offsets),
        (found.word_starts, found.token_offsets),
    ]
    return [
        One(*(flat[slice(*offsets[n : n + 2])].tolist() for flat, offsets in columns))
        for n in range(len(texts))
    ]


def by_the_definition(tokenizer: Tokenizer, text: str) -> One:
    """Sentence by sentence with the reference, as the module's first lines define it."""
    pieces = tokenizer.encode(split_sentences(text))
    ids = [token for piece in pieces for token in piece]
    begins, ends = tokenizer.spaces()
    words = [n == 0 or bool(begins[token] or ends[ids[n - 1]]) for n, token in enumerate(ids)]
    return One(ids, np.cumsum([0, *map(len, pieces)])[:-1].tolist(), words)


@settings(max_examples=400)
@given(st.lists(NASTY.map(cleaned).filter(bool), max_size=4))
@example(["a.  b. \n\n c?\u3000d\u3002 e\u00a0.\n f"])
@example(["<s>.\n<mask>. <mask>"])
@example(["it's. 's\n's", "x"])
@example([])
def test_the_whole_text_gives_what_its_sentences_give(texts: list[str]) -> None:
    special = {0, 1, 2, 3, TOKENIZER.mask_id}
    found = encode_texts(ENCODER, texts)
    assert found == [by_the_definition(TOKENIZER, text) for text in texts]
    for text, one in zip(texts, found, strict=True):
        assert TOKENIZER.decode(one.token_ids) == text
        assert not special & set(one.token_ids)


@given(
    st.lists(
        (st.text(WORDY, max_size=30) | st.text(max_size=9)).map(cleaned).filter(bool), max_size=4
    )
)
@example(["ab   a\n\n\nb . ab."])
@example(["a\x01 b\x0e " * 20, "a\x7f b" * 20, "\u00e9 a" + "b" * 40])
@example(["Hi, \u4f60\u597d\u3002x", "\u4f60", "\u597d"])
@example(
    [
        "\u4f60" + "-" * 70 + "a b",
        "a" + "-" * 70 + "\u4f60",
        "." * 64 + "\u4f60",
        "a " * 40 + "\u4f60",
    ]
)
@example([" \t\n\r\v\f\x1c\x1d\x1e\x1f".join("abcdefgh") * 4, "a" * 32 + "b c", "a" * 31 + " b c"])
def test_words_are_counted(texts: list[str]) -> None:
    """As the rules define words, also of texts from the middle of a buffer."""
    data, offsets = flat_texts(["x y", *texts])
    encoded = ENCODER.encode(cut_texts(data, offsets[1:]))
    assert encoded.words == sum(len(words_of(text)) for text in texts)


def test_words_by_hand() -> None:
    """A letter of a script without spaces is a word; marks stay with the letter before them."""
    for text, words in (
        ("Two words", 2),
        ("\u4f60\u597d\u3002", 2),
        ("Hi, \u4f60\u597d\u3002x", 4),
        ("\u3046\u3099\u3042", 2),
        ("a\u3000. b", 3),
    ):
        assert ENCODER.encode(cut_texts(*flat_texts([text]))).words == words, text


def with_splitter(pre_tokenizer: dict[str, object]) -> Tokenizer:
    fields = orjson.loads(TOKENIZER.definition) | {"pre_tokenizer": pre_tokenizer}
    return Tokenizer(orjson.dumps(fields))


# One piece whatever it holds: its merges reach over the ends of sentences.
WHOLE = with_splitter(
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
)


@given(st.lists(NASTY.map(cleaned).filter(bool), max_size=4))
@example(["a. a.\n\n a"])
def test_another_splitter_encodes_sentence_by_sentence(texts: list[str]) -> None:
    encoder = Encoder(WHOLE)
    assert encoder.flat.is_reference
    assert encode_texts(encoder, texts) == [by_the_definition(WHOLE, text) for text in texts]


def test_a_cut_inside_a_token_stops_the_job() -> None:
    data, offsets = flat_texts(["ab", "a\u3000b"])
    cuts = np.array([1])
    with pytest.raises(ValueError, match=r"text 0 of a batch: the bytes of its tokens \(gigatok"):
        ENCODER.encode(Texts(data, offsets, cuts, np.array([0, 1, 1])))
    with pytest.raises(ValueError, match=r"text 1 of a batch"):
        ENCODER.encode(Texts(data, offsets, cuts + 3, np.array([0, 0, 1])))


def test_lost_bytes_stop_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    def shorter(_: FlatEncoder, data: np.ndarray, offsets: np.ndarray) -> Tokens:
        tokens = flat_encode(ENCODER.flat, data, offsets)
        return Tokens(tokens.ids, np.minimum(tokens.offsets, tokens.offsets[-1] - 1))

    flat_encode = FlatEncoder.encode
    monkeypatch.setattr(FlatEncoder, "encode", shorter)
    with pytest.raises(ValueError, match=r"text 1 of a batch"):
        ENCODER.encode(cut_texts(*flat_texts(["ab a", "ab"])))


@pytest.mark.parametrize("changed", [0, 700])
def test_a_difference_from_the_reference_is_named(changed: int) -> None:
    """Token n of "ab ab ..." from the second on is "␣a", "b" by turns: 700 is at byte 1049."""
    texts = cut_texts(*flat_texts(["one", "ab " * 400 + "a."]))
    encoded = ENCODER.encode(texts)
    ENCODER.check(texts, encoded, ["s/first", "s/second"])
    ids = encoded.token_ids.copy()
    start = int(encoded.token_offsets[1])
    ids[start + changed] += 1
    place = sum(
        len(TOKENIZER.token_bytes()[token]) for token in encoded.token_ids[start:][:changed]
    )
    with pytest.raises(
        ValueError, match=rf"document s/second, byte {place}: gigatoken .* gives the ids .*, tok"
    ):
        ENCODER.check(texts, encoded._replace(token_ids=ids), ["s/first", "s/second"])


def test_a_token_too_few_is_a_difference() -> None:
    texts = cut_texts(*flat_texts(["ab a"]))
    encoded = ENCODER.encode(texts)
    fewer = encoded._replace(token_offsets=encoded.token_offsets - np.array([0, 1]))
    with pytest.raises(ValueError, match=r"document s/0, byte 2: .* gives the ids \[\], tok"):
        ENCODER.check(texts, fewer, ["s/0"])


def test_the_sample_is_bounded() -> None:
    """Long documents are checked up to a sentence's start; those after the bound are not."""
    half = CHECKED_BYTES // 2
    texts = ["a" * half + ".", ("b" * (half + 5) + ". ") * 3, "c"]
    cut = cut_texts(*flat_texts(texts))
    sampled = list(encode._sample(cut))
    assert sampled == [(0, half + 1), (1, (half + 1) + (half + 6))]
    encoded = ENCODER.encode(cut)
    for n, seen in ((half + 3, True), (len(encoded.token_ids) - 1, False)):
        ids = encoded.token_ids.copy()
        ids[n] += 1
        if seen:
            with pytest.raises(ValueError, match=r"document s/1, byte"):
                ENCODER.check(cut, encoded._replace(token_ids=ids), ["s/0", "s/1", "s/2"])
        else:
            ENCODER.check(cut, encoded._replace(token_ids=ids), ["s/0", "s/1", "s/2"])


def test_starts_by_hand() -> None:
    """Tokens ab | ! | ␣a | . | \\n | ab | ␣␣ | ␣ | b of "ab! a.\\nab   b"."""
    (found,) = encode_texts(ENCODER, ["ab! a.\nab   b"])
    pieces = TOKENIZER.token_bytes()
    assert [pieces[token] for token in found.token_ids] == [
        b"ab", b"!", b" a", b".", b"\n", b"ab", b"  ", b" ", b"b",
    ]  # fmt: skip
    assert found.sentence_starts == [0, 2, 4]
    assert found.word_starts == [
        True, False, True, False, True, True, True, True, True,
    ]  # fmt: skip


DOCUMENTS = [Given(f"{n}", f"Text {n} of {n * n}. Another\nline.") for n in range(40)]
DOCUMENTS += [Given("copy", DOCUMENTS[0].text), Given("copy2", DOCUMENTS[1].text.upper())]
CONFIG = Dedup(partitions=1)


def test_a_document_of_ten_million_tokens() -> None:
    line = "ab. a b a\n"
    once = ENCODER.encode(cut_texts(*flat_texts([line]))).token_ids
    times = 10_000_000 // len(once) + 1
    found = ENCODER.encode(cut_texts(*flat_texts([line * times])))
    assert found.token_offsets.tolist() == [0, len(once) * times]
    assert (found.token_ids.reshape(times, -1) == once).all()
    assert len(found.sentence_starts) == times
    assert (np.diff(found.sentence_starts[1:]) == len(once)).all()
    assert found.words == 4 * times


@pytest.fixture
def encoded(tmp_path: Path) -> tuple[list[str], dict[str, dict[str, object]], Tokenizer]:
    tree, store = Tree(str(tmp_path)), str(tmp_path / "store")
    names = clean_parts(tree, spread(DOCUMENTS, [0, 20]), CONFIG)
    deduplicate(tree, names, CONFIG)
    made = count_and_learn(tree, store, TokenizerConfig(vocab_size=300), names)
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
            "words": sum(len(words_of(text)) for text in texts.values()),
            "text_bytes": sum(len(text.encode()) for text in texts.values()),
            "kept_digest": format_digest(digest_table(kept, KEPT_COLUMNS)),
        }
        seen += len(rows)
    assert seen == 40
    assert counts[names[0]]["documents"] == 0


def test_batches_do_not_show(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    encoded: tuple[list[str], dict[str, dict[str, object]], Tokenizer],
) -> None:
    names, counts, tokenizer = encoded
    location = (str(tmp_path / "store"), tokenizer.fingerprint)
    tree = Tree(str(tmp_path))
    for size in (1, 100, 10**6):
        monkeypatch.setattr(encode, "_BATCH_BYTES", size)
        for name in names:
            path = tmp_path / "tokens" / f"{name}.arrow"
            before = path.read_bytes()
            path.unlink()
            assert encode_part(tree, "again", name, location).counts == counts[name]
            assert path.read_bytes() == before


def test_ids_of_a_large_vocabulary_are_wider() -> None:
    for size, expected in ((65536, pa.uint16()), (65537, pa.uint32())):
        assert tokens_schema(size).field("token_ids").type.value_type == expected
