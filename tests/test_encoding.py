"""The fast library gives the reference's ids, and where it cannot be used nothing else changes."""

import gzip
import io
import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_tokenizer import MERGES, NASTY

from corpus import encoding
from corpus.encoding import FlatEncoder, encode_by_reference, flat_texts
from corpus.tokenizer import Tokenizer, build_definition, open_tokenizer

TOKENIZER = Tokenizer(build_definition(MERGES))
FAST = FlatEncoder(TOKENIZER)


@pytest.fixture(scope="module")
def roberta(shared_data: Path) -> Tokenizer:
    directory = shared_data / "bpe"
    if not directory.is_dir():
        pytest.skip(f"no {directory}")
    return open_tokenizer(str(directory))


def by_both(encoder: FlatEncoder, texts: list[str]) -> list[list[int]]:
    """Encode with both, compare, and return the ids."""
    data, offsets = flat_texts(texts)
    found, expected = (
        encoder.encode(data, offsets), encode_by_reference(encoder.tokenizer, data, offsets),
    )  # fmt: skip
    assert found.offsets.tolist() == expected.offsets.tolist()
    assert found.ids.dtype == np.uint32
    assert found.ids.tolist() == expected.ids.tolist()
    return [found.ids[slice(*found.offsets[n : n + 2])].tolist() for n in range(len(texts))]


def test_the_library_is_used() -> None:
    assert not FAST.is_reference
    assert FAST.library.startswith("gigatoken ")


@settings(max_examples=300)
@given(st.lists(NASTY, max_size=5))
@example(["<s></s><mask> <mask><pad><unk>", "", "'s 't're've'm'll'd 'S"])
@example(["\u00a0\u3000 \u2028x", "\u0301 \u0301", "\U0001f468\u200d\U0001f469 \U0001f1e9"])
def test_ids_are_the_references(texts: list[str]) -> None:
    assert by_both(FAST, texts) == TOKENIZER.encode(texts)


@settings(max_examples=100)
@given(st.lists(st.text(max_size=40) | NASTY, max_size=5))
def test_ids_are_robertas(roberta: Tokenizer, texts: list[str]) -> None:
    by_both(_fast(roberta), texts)


@cache
def _fast(tokenizer: Tokenizer) -> FlatEncoder:
    return FlatEncoder(tokenizer)


# Letters that came with Unicode 17 (Telugu, Latin, an ideograph), which tokenizers 0.23 lacks.
NEW_LETTERS = ("\u0c5c", "\ua7f1", "\U0003262c")


@pytest.mark.parametrize("letter", NEW_LETTERS)
def test_letters_that_only_one_library_knows(roberta: Tokenizer, letter: str) -> None:
    """Before `'ll` the ids would differ: a sign takes the apostrophe along, a letter does not."""
    text = f"we{letter}'ll {letter}1"
    data, offsets = flat_texts([text])
    if letter == NEW_LETTERS[0]:
        alone = encoding._encode_fast(_fast(roberta)._fast, data, offsets)
        assert alone.ids.tolist() != roberta.encode([text])[0]
    by_both(_fast(roberta), ["the", text, "", "\u4f60\u597d", text, text, "the"])
    fresh = FlatEncoder(roberta)
    assert fresh._disputed(*flat_texts(["the", text, "\u4f60", text])) == [1, 3]


@given(st.text(st.characters(min_codepoint=0x80, codec="utf-8"), max_size=30))
def test_characters_are_found_in_utf8(text: str) -> None:
    data = np.frombuffer(f"a{text}b".encode(), np.uint8)
    places = np.flatnonzero(data >= 0xC0)
    assert "".join(map(chr, encoding._code_points(data, places))) == text


def test_every_entry_of_robertas_vocabulary_as_a_text(roberta: Tokenizer) -> None:
    """Also those that merges never reach, and those that are not UTF-8 by themselves."""
    pieces = [piece.decode(errors="ignore") for piece in roberta.token_bytes()]
    by_both(_fast(roberta), [*pieces, *(f" {piece} {piece}" for piece in pieces)])


# Where the text of a line lies, in the order of preference.
TEXT_KEYS = ("text", "abst", "sentence")
# Of a file of prose, which there is so much of: documents are taken evenly, up to this much text.
SLICE_BYTES = 2 * 2**20


def sliced(texts: list[str]) -> list[str]:
    """Take every n-th text, so many that they stay below the bound."""
    return texts[:: 1 + sum(len(text.encode()) for text in texts) // SLICE_BYTES]


def texts_of(path: Path) -> list[str]:
    """Return the texts of a file: JSON lines, plain, or JSON of questions on paragraphs."""
    raw = path.read_bytes()
    if path.suffix == ".zst":
        raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw)).read()
    else:
        raw = gzip.decompress(raw)
    if ".jsonl" in path.name:
        rows = map(orjson.loads, raw.splitlines())
        return [next(row[key] for key in TEXT_KEYS if key in row) for row in rows]
    if ".txt" in path.name:
        return [raw.decode()]
    articles = orjson.loads(raw)["data"]
    return [part["context"] for article in articles for part in article["paragraphs"]]


def test_documents_of_every_language_come_back(shared_data: Path, roberta: Tokenizer) -> None:
    """All of the other languages and of Chinese, and a slice of each file of English prose."""
    whole = (
        "multilingual/udhr2*.zst",
        "multilingual/xquad/*",
        "multilingual/zh/*",
        "finetune/zh/*",
    )
    paths = [path for pattern in whole for path in sorted(shared_data.glob(pattern))]
    prose = sorted([*shared_data.glob("prose/*.jsonl.*"), *shared_data.glob("prose/*.txt.gz")])
    if not (paths and prose):
        pytest.skip(f"no texts in {shared_data}")
    texts = [text for path in paths for text in texts_of(path)]
    assert len(texts) > 40_000
    texts += [text for path in prose for text in sliced(texts_of(path))]
    data, offsets = flat_texts(texts)
    found = _fast(roberta).encode(data, offsets)
    pieces = roberta.token_bytes()
    assert b"".join(pieces[token] for token in found.ids) == data.tobytes()
    lengths = np.array([len(piece) for piece in pieces])
    ends = np.concatenate([[0], np.cumsum(lengths[found.ids])])
    assert (ends[found.offsets] == offsets).all()
    by_both(_fast(roberta), [text[:300] for text in texts[::5]])


def test_offsets_need_not_begin_at_zero() -> None:
    data, offsets = flat_texts(["the a", "the <s>", "", "the the"])
    whole, part = FAST.encode(data, offsets), FAST.encode(data, offsets[1:])
    reference = encode_by_reference(TOKENIZER, data, offsets[1:])
    for found in (part, reference):
        assert found.offsets.tolist() == (whole.offsets[1:] - whole.offsets[1]).tolist()
        assert found.ids.tolist() == whole.ids[whole.offsets[1] :].tolist()


def test_flat_texts_by_hand() -> None:
    data, offsets = flat_texts(["ab", "", "\u00e9"])
    assert (data.tobytes(), offsets.tolist()) == (b"ab\xc3\xa9", [0, 2, 2, 4])


def test_without_the_library_ids_are_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = by_both(FAST, ["the <s>", "\u4f60 the"])
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    with caplog.at_level(logging.INFO):
        slow = FlatEncoder(TOKENIZER)
    assert "encoding with tokenizers, some 80 times slower: no gigatoken" in caplog.text
    assert slow.is_reference
    assert slow.library.startswith("tokenizers ")
    assert by_both(slow, ["the <s>", "\u4f60 the"]) == expected
    assert by_both(slow, ["the"] * 600) == [expected[0][:1]] * 600


def test_a_refused_tokenizer_is_encoded_by_the_reference(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(definition: bytes) -> Any:  # noqa: ANN401 - as the library's own
        raise RuntimeError(f"{len(definition)} bytes are unsupported")

    monkeypatch.setattr("gigatoken.gigatoken_rs.load_hf_json", refuse)
    assert FlatEncoder(TOKENIZER).is_reference
    assert "gigatoken refuses the tokenizer" in caplog.text
    assert "bytes are unsupported" in caplog.text


def test_a_splitter_that_is_not_gpt2s_is_left_to_the_reference(
    caplog: pytest.LogCaptureFixture,
) -> None:
    split = {"type": "Split", "pattern": {"Regex": r"\s?\S+|\s+"}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}  # fmt: skip
    both = {"type": "Sequence", "pretokenizers": [split, level]}
    fields = orjson.loads(TOKENIZER.definition) | {"pre_tokenizer": both}
    tokenizer = Tokenizer(orjson.dumps(fields))
    with caplog.at_level(logging.INFO):
        encoder = FlatEncoder(tokenizer)
    assert encoder.is_reference
    assert "does not split words as GPT-2's does" in caplog.text
    by_both(encoder, ["the <s>.", " the"])


def test_the_library_is_opened_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """It remembers every word it met; what it has met does not show in the ids."""
    opened = []
    original = encoding._open_fast

    def open_and_count(tokenizer: Tokenizer) -> Any:  # noqa: ANN401 - the library's own object
        opened.append(tokenizer)
        return original(tokenizer)

    monkeypatch.setattr(encoding, "_open_fast", open_and_count)
    monkeypatch.setattr(encoding, "REOPEN_AFTER_BYTES", 10)
    encoder = FlatEncoder(TOKENIZER)
    for _ in range(6):
        by_both(encoder, ["the ab"])
    assert len(opened) == 1 + 2  # 6 bytes a time: before the third and the fifth


def test_encoding_starts_no_threads() -> None:
    before = psutil.Process().num_threads()
    FAST.encode(*flat_texts(["the quick brown fox. " * 50] * 500))
    assert psutil.Process().num_threads() <= before
