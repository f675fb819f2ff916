"""The readable statistics on texts counted by hand."""

import pytest

from corpus.recipe import Clean
from pipeline.reference import (
    count_lines,
    count_ngrams,
    count_words,
    judge,
    paragraphs_of,
    repeated_characters,
    sentences_of,
    take_lines,
    top_characters,
    words_of,
)
from pipeline.rules import thresholds

C4 = thresholds(Clean(rules=("c4",)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's  a\tcat, (no)!\n", ["It's", "a", "cat,", "(no)!"]),
        ("Hi, \u4f60\u597d\u3002x1\u4e16", ["Hi,", "\u4f60", "\u597d\u3002", "x1", "\u4e16"]),
        ("\u300c\u4f60\u597d\u300d", ["\u300c\u4f60", "\u597d\u300d"]),
        ("...\u4f60", ["...\u4f60"]),
        # A Thai vowel sign and a tone mark stay with their consonant.
        ("\u0e17\u0e35\u0e48\u0e19", ["\u0e17\u0e35\u0e48", "\u0e19"]),
        ("\ud55c\uad6d\uc5b4 \uae00", ["\ud55c\uad6d\uc5b4", "\uae00"]),
        ("e\u0301t\u00e9 3.14 x_y", ["e\u0301t\u00e9", "3.14", "x_y"]),
        (" \u3000\u2028", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_counts_of_words() -> None:
    counts = count_words("The #1 \u4f60\u0e01 of... ....\n12\u2026 THE")
    assert counts == {
        "characters": 28,
        "newlines": 1,
        "all_lines": 2,
        "characters_but_newlines": 27,
        "words": 8,
        "word_characters": 22,
        "alphabetic_words": 5,
        "unspaced_words": 2,
        "unmarked_words": 1,
        "stop_words": 1,  # "of..." is no stop word
        "hashes": 1,
        "ellipses": 3,
    }


def test_counts_of_lines() -> None:
    text = " - one two... \n\none  two.\none two.\n \none\ttwo.\n" + "x" * 31
    assert paragraphs_of(text) == [
        [" - one two..."], ["one  two.", "one two."], ["one\ttwo.", "x" * 31]
    ]  # fmt: skip
    assert count_lines(text) == {
        "lines": 5,
        "bullet_lines": 1,
        "ellipsis_lines": 1,
        "marked_lines": 4,
        "short_lines": 4,
        "duplicate_lines": 0,
        "duplicate_line_characters": 0,
        "paragraphs": 3,
        "duplicate_paragraphs": 0,
        "duplicate_paragraph_characters": 0,
    }
    again = count_lines("a b\nc\n\nx\n\na b\nc\n\na b c\n\n a b\nc\n\n a b\nc\n\na  b\nc")
    assert (again["duplicate_paragraphs"], again["duplicate_paragraph_characters"]) == (2, 5 + 6)
    assert (again["duplicate_lines"], again["duplicate_line_characters"]) == (6, 3 + 4 + 4)


def test_the_most_common_ngram_and_its_spaces() -> None:
    words = ["a", "bb", "a", "bb", "c"]
    assert top_characters(words, 2) == 2 * len("a bb")
    assert top_characters(words, 4) == len("a bb a bb")
    assert top_characters(words, 6) == 0
    # Of several as common, the first: "x yyy" before "p q".
    assert top_characters(["x", "yyy", "p", "q", "p", "q", "x", "yyy"], 2) == 2 * len("x yyy")
    # No space beside a character of a script without spaces.
    assert top_characters(["\u4f60", "\u597d", "\u4f60", "\u597d"], 2) == 4
    assert top_characters(["a", "\u597d", "a", "\u597d"], 2) == 4


def test_repeated_ngrams_are_skipped_as_a_whole() -> None:
    assert repeated_characters(["a", "b", "a", "b", "a", "b"], 2) == 4
    assert repeated_characters(["a", "a", "a", "a", "a"], 2) == 4
    assert repeated_characters(["ab", "c", "d", "ab", "c"], 2) == 3
    assert repeated_characters(["ab", "c", "a", "bc"], 2) == 0
    assert count_ngrams("a b c d e a b c d e")["duplicate_5gram_characters"] == 5


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("One. Two! \"Three?\" four", 4),
        ("No mark at all", 1),
        ("Version 3.14 is out. (It is.) Good", 3),
        ("\u4f60\u597d\u3002\u597d\uff01\u4f60", 3),
        ("...", 1),
    ],
)  # fmt: skip
def test_sentences(line: str, count: int) -> None:
    assert sentences_of(line) == count


def test_lines_that_c4_takes_out() -> None:
    text = "\n".join([
        "This line ends well. It has two.",
        "",
        "This one has no mark",
        "This one has three dots...",
        "He said \u201cthis is fine.\u201d",
        "Too short.",
        "a" * 1001 + " b c.",
        "Please enable JavaScript now.",
        "JavaScript { is taken out before braces count.",
        "Our Privacy Policy says more.",
        "\u4f60\u597d\u4e16\u3002",
    ])  # fmt: skip
    rest, counts = take_lines(text, C4)
    assert rest.split("\n") == [
        "This line ends well. It has two.",
        "He said \u201cthis is fine.\u201d",
        "\u4f60\u597d\u4e16\u3002",
    ]
    assert counts == {
        "long_word_lines": 1,
        "unmarked_lines": 2,
        "few_word_lines": 1,
        "javascript_lines": 2,
        "policy_lines": 1,
        "lorem_lines": 0,
        "curly_lines": 0,
        "sentences": 4,
    }


def test_lorem_ipsum_and_braces_count_where_a_line_gets_that_far() -> None:
    _, counts = take_lines("Lorem Ipsum and so on.\nlorem ipsum\nA { b c.\nA { b c", C4)
    assert (counts["lorem_lines"], counts["curly_lines"]) == (1, 1)


def test_citations_are_cut_out_before_words_count() -> None:
    config = Clean(rules=("c4",), thresholds={"c4_min_sentences": 1})
    text = "A fact[12] stands here.[citation needed]\n.. [2] http.\nHistory of it [edit]."
    result = judge(text, config)
    assert result.text == "A fact stands here.\nHistory of it ."
    assert result.removed_lines["c4_line_min_words"] == 1
