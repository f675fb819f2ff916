"""Merges learned from counts are those that the reference trainer learns from the text."""

from collections.abc import Mapping, Sequence

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_tokenizer import NASTY
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers, trainers

from corpus.encoding import flat_texts
from pipeline.bpe import learn_merges
from pipeline.word_counts import Counted, Words


def reference_merges(texts: Sequence[str], vocab_size: int) -> list[tuple[str, str]]:
    """Learn merges by `tokenizers`; <mask> is the last of so many entries."""
    reference = FastTokenizer(models.BPE())
    reference.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    reference.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size - 1, min_frequency=2, show_progress=False,
            special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )  # fmt: skip
    merges = orjson.loads(reference.to_str())["model"]["merges"]
    return [(left, right) for left, right in merges]


def words_of(counts: Mapping[str, int]) -> Counted:
    return Counted(*flat_texts([*counts]), np.array([*counts.values()], np.int64))


def test_merges_by_hand() -> None:
    """ab 3 + 2 times; then abc and xy 3 times, of which ids decide: x < ab, as ab is made later."""
    words = words_of({"abc": 3, "ab": 2, "xy": 3, "cd": 1})
    expected = [("a", "b"), ("x", "y"), ("ab", "c")]
    assert learn_merges(words, 10, 2) == expected
    assert learn_merges(words, 2, 2) == expected[:2]
    assert learn_merges(words, 0, 2) == []
    assert learn_merges(words, 10, 1) == [*expected, ("c", "d")]
    assert learn_merges(words, 10, 4) == expected[:1]


def test_equal_counts_go_by_ids() -> None:
    """Ids follow the alphabet, and the left token comes before the right one."""
    words = words_of({"zb": 2, "bz": 2, "ba": 2, "!~": 2})
    assert learn_merges(words, 9, 2) == [("!", "~"), ("b", "a"), ("b", "z"), ("z", "b")]


def test_runs_by_hand() -> None:
    """aaaaa -> (aa)(aa)a -> (aaaa)a -> aaaaa: pairs are merged from the left, none overlaps."""
    words = words_of({"aaaaa": 2})
    assert learn_merges(words, 9, 2) == [("a", "a"), ("aa", "a"), ("aa", "aaa")]


def test_a_merge_takes_pairs_away() -> None:
    """bc is the second most frequent pair until ab takes its b's."""
    words = words_of({"abc": 5, "bc": 2, "de": 4})
    assert learn_merges(words, 9, 2) == [("b", "c"), ("a", "bc"), ("d", "e")]
    words = words_of({"ab": 3, "abc": 5, "bc": 2, "de": 4})
    assert learn_merges(words, 9, 2) == [("a", "b"), ("ab", "c"), ("d", "e"), ("b", "c")]


def test_counts_may_be_beyond_32_bits() -> None:
    words = words_of({"ab": 2**40, "xy": 2**40 + 1, "cd": 2**33})
    assert learn_merges(words, 9, 2) == [("x", "y"), ("a", "b"), ("c", "d")]


def test_no_words_give_no_merges() -> None:
    assert learn_merges(Words().counted, 100, 2) == []
    assert learn_merges(words_of({"a": 9}), 100, 2) == []


RUNS = st.text(st.sampled_from("ab"), min_size=1, max_size=40)
SYLLABLES = st.lists(st.sampled_from(["the", "re", " in", "ing", "aa", "\u4f60"])).map("".join)


@settings(max_examples=300)
@given(st.lists(NASTY | RUNS | SYLLABLES, max_size=12), st.integers(261, 420))
@example(["aaaa baaa aabaa aaabaaab abababab ababa " * 3], 420)
def test_merges_are_the_references(texts: list[str], vocab_size: int) -> None:
    texts = texts + texts[::2]
    words = Words()
    words.count_texts(*flat_texts(texts))
    assert learn_merges(words.counted, vocab_size - 261, 2) == reference_merges(texts, vocab_size)


@given(st.dictionaries(RUNS | SYLLABLES.filter(bool), st.integers(1, 5), max_size=12), st.data())
def test_the_order_of_words_does_not_show(counts: dict[str, int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(list(counts)))
    shuffled = words_of({word: counts[word] for word in order})
    assert learn_merges(shuffled, 50, 2) == learn_merges(words_of(counts), 50, 2)


@pytest.mark.parametrize("seed", [1, 2])
def test_tables_grow(seed: int) -> None:
    """More pairs than the tables begin with room for."""
    random = np.random.default_rng(seed)
    letters = random.integers(97, 123, (12_000, 9), dtype=np.uint8)
    letters[:, 0] = ord(" ")
    texts = [letters[:6000].tobytes().decode(), letters.tobytes().decode()]
    words = Words()
    words.count_texts(*flat_texts(texts))
    assert learn_merges(words.counted, 8000, 2) == reference_merges(texts, 8261)
