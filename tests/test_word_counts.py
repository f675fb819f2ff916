"""Words are the reference's, and their counts do not show how the texts were dealt out."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_encoding import NEW_LETTERS
from test_tokenizer import NASTY

from corpus.encoding import flat_texts
from corpus.tokenizer import split_words
from pipeline.word_counts import Words


def counted(words: Words) -> dict[bytes, int]:
    data, offsets, counts = words.counted
    listed = [data[low:high].tobytes() for low, high in pairwise(offsets.tolist())]
    assert len(set(listed)) == len(listed) == len(words.hashes)
    return dict(zip(listed, counts.tolist(), strict=True))


def count(texts: list[str]) -> Words:
    words = Words()
    words.count_texts(*flat_texts(texts))
    return words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("the cat's 2nd", ["the", " cat", "'s", " 2", "nd"]),
        ("I'll we're I've he'd don't I'm", ["I", "'ll", " we", "'re", " I", "'ve", " he", "'d",
                                          " don", "'t", " I", "'m"]),
        ("'S 'x ''s 's", ["'", "S", " '", "x", " ''", "s", " '", "s"]),
        ("'l 'r", ["'", "l", " '", "r"]),
        ("a  b   c ", ["a", " ", " b", "  ", " c", " "]),
        ("a\n\nb\n c \n", ["a", "\n", "\n", "b", "\n", " c", " \n"]),
        ("\u00e9t\u00e9\u3000\u4f60\u597d\u3002x", ["\u00e9t\u00e9", "\u3000", "\u4f60\u597d",
                                                    "\u3002", "x"]),
        ("1\u00b2\u2167!?<s>", ["1\u00b2\u2167", "!?<", "s", ">"]),
    ],
)  # fmt: skip
def test_words_by_hand(text: str, words: list[str]) -> None:
    assert counted(count([text])) == Counter(word.encode() for word in words)


@settings(max_examples=400)
@given(st.lists(st.text() | NASTY | st.text(st.sampled_from("a1! '\n\u3000stremvld")), max_size=4))
@example([f"we{letter}'ll {letter}1" for letter in NEW_LETTERS])
@example(["e\u0301 \u0301a", "\U0001f468\u200d\U0001f469", "x\u2028 \u2028y"])
def test_words_are_the_references(texts: list[str]) -> None:
    expected = Counter(word for text in texts for word in split_words(text))
    assert counted(count(texts)) == expected


def test_tables_grow() -> None:
    """More words, and longer ones, than a table begins with room for."""
    random = np.random.default_rng(3)
    texts = [" ".join(map(str, random.integers(0, 10**9, 500))) for _ in range(40)]
    texts += ["y" * 100_000, "z" * 70_000 + " y", "y" * 100_000]
    found = counted(count(texts))
    assert len(found) > 15_000
    assert found[b"y" * 100_000] == 2
    assert found == Counter(word for text in texts for word in split_words(text))


@given(st.lists(NASTY, max_size=6), st.integers(0, 6))
def test_counts_add_up(texts: list[str], cut: int) -> None:
    total = Words()
    for part in (texts[cut:], texts[:cut]):
        total.add(count(part).counted)
    assert counted(total) == counted(count(texts))


def test_one_text_of_many() -> None:
    data, offsets = flat_texts(["one two", "two three", "four"])
    words = Words()
    words.count_texts(data, offsets[1:3])
    assert counted(words) == {b"two": 1, b" three": 1}
