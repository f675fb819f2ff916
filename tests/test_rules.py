"""Every Gopher threshold on both sides, with texts made by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_helpers import unhurried

from pipeline.characters import BULLETS, STOP_WORDS
from pipeline.rules import Failure, gopher_quality


def words(count: int, *, word: str = "river", first: str = "the of") -> str:
    """Return a text of so many words that passes every rule but perhaps the first."""
    chosen = first.split()
    return " ".join([*chosen, *[word] * (count - len(chosen))])


def failure(text: str) -> tuple[str, float | None, float | None] | None:
    found = gopher_quality(text)
    return None if found is None else (found.rule, found.value, found.threshold)


def test_a_plain_text_passes() -> None:
    assert gopher_quality(words(60)) is None


def test_number_of_words() -> None:
    assert failure("") == failure(" \n") == ("empty", 0, 1)
    assert failure("x") == ("gopher_min_words", 1, 50)
    assert failure(words(49)) == ("gopher_min_words", 49, 50)
    assert failure(words(50)) is None
    assert failure(words(100_000)) is None
    assert failure(words(100_001)) == ("gopher_max_words", 100_001, 100_000)


def test_mean_word_length() -> None:
    # 100 words of 3 letters: 300; one letter less is below 3.
    three = words(100, word="cat", first="the and")
    assert failure(three) is None
    assert failure(three.replace("cat", "at", 1)) == ("gopher_min_mean_word_length", 2.99, 3)
    # "the", "of", one word of 25 and 97 of 10: 1,000 letters of 100 words; one more is above 10.
    ten = words(99, word="abcdefghij") + " " + "k" * 25
    assert failure(ten) is None
    assert failure(ten + "k") == ("gopher_max_mean_word_length", 10.01, 10)


def test_the_length_of_a_word_counts_characters_not_bytes() -> None:
    assert failure(words(100, word="\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9")) is None


@pytest.mark.parametrize(
    ("symbol", "rule"),
    [
        ("#", "gopher_hash_to_word_ratio"),
        ("...", "gopher_ellipsis_to_word_ratio"),
        ("\u2026", "gopher_ellipsis_to_word_ratio"),
    ],
)
def test_symbols_to_words(symbol: str, rule: str) -> None:
    text = words(100)
    assert failure(text.replace("river", "river" + symbol, 10).replace(" of ", " of\n")) is None
    eleven = text.replace("river", symbol + "river", 11)
    assert failure(eleven) == (rule, 0.11, 0.1)
    assert failure(text.replace("river", "river" + symbol * 11, 1)) == (rule, 0.11, 0.1)


def test_both_kinds_of_ellipsis_count() -> None:
    text = words(100).replace("river", "a...b", 6).replace("river", "a\u2026b", 5)
    assert failure(text) == ("gopher_ellipsis_to_word_ratio", 0.11, 0.1)


def lines(good: int, bad: int, form: str) -> str:
    plain = "the rivers of plain words stand in every line"
    return "\n".join([plain] * good + [form.format(plain)] * bad)


@pytest.mark.parametrize("bullet", BULLETS)
def test_lines_that_begin_with_a_bullet(bullet: str) -> None:
    form = bullet + " {}"
    assert failure(lines(1, 9, form)) is None
    assert failure(lines(1, 10, form)) == ("gopher_bullet_lines", 10 / 11, 0.9)
    assert failure(lines(0, 10, "  " + form)) == ("gopher_bullet_lines", 1.0, 0.9)


@pytest.mark.parametrize("ellipsis", ["...", "\u2026"])
def test_lines_that_end_with_an_ellipsis(ellipsis: str) -> None:
    form = "{}" + ellipsis + "  "
    assert failure(lines(7, 3, form)) is None
    assert failure(lines(6, 3, form)) == ("gopher_ellipsis_lines", 3 / 9, 0.3)


def test_blank_lines_are_no_lines() -> None:
    text = lines(1, 9, "- {}")
    assert failure(text.replace("\n", "\n \n\n")) is None
    assert failure(lines(1, 10, "- {}").replace("\n", "\n \n\n")) is not None


def test_words_with_a_letter() -> None:
    mixed = words(80) + " 1234" * 20
    assert failure(mixed) is None
    assert failure(mixed.replace("river", "12345", 1)) == ("gopher_alphabetic_words", 0.79, 0.8)
    assert failure(mixed.replace("river", "1234x", 1)) is None
    assert failure(mixed.replace("river", "123\u0436", 1)) is None


def test_stop_words() -> None:
    for word in STOP_WORDS:
        assert failure(words(60, first=word)) == ("gopher_stop_words", 1, 2)
        assert failure(words(60, first=f"{word} {word}")) == ("gopher_stop_words", 1, 2)
        assert failure(words(60, first=f"{word} {'the' if word != 'the' else 'of'}")) is None
    assert failure(words(60, first="THE And")) is None
    assert failure(words(60, first="the, (of)")) == ("gopher_stop_words", 0, 2)


def test_the_first_rule_in_the_papers_order_is_named() -> None:
    """One text that fails everything; each mend shows the next rule."""
    all_bad = "\n".join(["- # a..."] * 16)
    expected = [
        "gopher_min_words", "gopher_min_mean_word_length", "gopher_hash_to_word_ratio",
        "gopher_ellipsis_to_word_ratio", "gopher_bullet_lines", "gopher_ellipsis_lines",
        "gopher_alphabetic_words", "gopher_stop_words", None,
    ]  # fmt: skip
    texts = [
        all_bad,
        all_bad * 2,
        "\n".join(["- # 1234567..."] * 20),
        "\n".join(["- 1234567..."] * 30),
        "\n".join(["- 12345 67890 12345 67890 12345 67890 12345 67890 12345 67890..."] * 5),
        "\n".join(["12345 67890 12345 67890 12345 67890 12345 67890 12345 67890..."] * 5),
        "12345 " * 50,
        "river " * 50,
        "river " * 50 + "the of",
    ]
    found = [gopher_quality(text) for text in texts]
    assert [each and each.rule for each in found] == expected


def test_characters_of_a_script_without_spaces_are_words() -> None:
    assert failure("\u4f60\u597d\u3002" * 24) == ("gopher_min_words", 48, 50)
    assert failure("\u4f60\u597d\u3002" * 25) is None


@unhurried
@given(st.text(alphabet=st.sampled_from("ab #.\u2026-\n\t\u00a0\u20281the of"), max_size=600))
def test_a_verdict_is_a_comparison_that_fails(text: str) -> None:
    found = gopher_quality(text)
    if found is None:
        assert 50 <= len(text.split()) <= 100_000
        return
    assert isinstance(found, Failure) and found.value is not None and found.threshold is not None
    below = {"min_words", "min_mean_word_length", "alphabetic_words", "stop_words"}
    if found.rule == "empty" or found.rule.removeprefix("gopher_") in below:
        assert found.value < found.threshold
    else:
        assert found.value > found.threshold
