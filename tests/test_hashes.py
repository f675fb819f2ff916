"""The batched hash of normalized texts is the readable one."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.documents import text_hash
from pipeline.hashes import text_hashes

# What a table cannot lower, what grows in lower case, what composes, and every kind of space.
TRICKY = (
    "aA \t\n\x1c\x85\u00a0\u3000\u0130\u03a3\u03c3\u023a\u1e9e\u0301e\u212a\U00010400\U0001f600"
)


def hashes(texts: list[str]) -> list[bytes]:
    return text_hashes(pa.array(texts, pa.large_string()))


@given(st.lists(st.text() | st.text(TRICKY, max_size=12)))
def test_the_kernel_gives_what_the_reference_gives(texts: list[str]) -> None:
    assert hashes(texts) == [text_hash(text) for text in texts]


@pytest.mark.parametrize(
    ("one", "other"),
    [("A  b\n", "a b"), ("\u00c9", "e\u0301"), ("\u0130x", "i\u0307X"), ("O\u03a3", "o\u03c2")],
)
def test_equal_by_hand(one: str, other: str) -> None:
    first, second = hashes([one, other])
    assert first == second


def test_every_character_alone() -> None:
    texts = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = [f"{each}A{each}" for each in texts[::7]]
    assert hashes(texts) == [text_hash(text) for text in texts]


def test_a_slice_of_an_array() -> None:
    texts = pa.array(["a", "B", "\u00c9"], pa.large_string())
    assert text_hashes(texts.slice(1, 2)) == [text_hash("b"), text_hash("\u00e9")]
