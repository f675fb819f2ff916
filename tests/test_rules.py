"""Every threshold on both sides, with texts made by hand; the order and choice of rules."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.recipe import Clean
from pipeline.characters import BULLETS, STOP_WORDS
from pipeline.judging import Judged, judge_batch, statistics_table
from pipeline.rules import (
    PRESETS,
    RULES,
    Failure,
    Rule,
    check_thresholds,
    is_english,
    thresholds,
)

QUALITY = Clean(rules=("gopher_quality",))


def judged(text: str, config: Clean, language: str | None = None) -> Judged:
    return judge_batch(pa.array([text]), config, [language])


def gopher_quality(text: str) -> Failure | None:
    return judged(text, QUALITY).failures[0]


def rule_of(text: str, *rules: str, **limits: float | None) -> str | None:
    """Return the rule that a text fails in these sets, with some thresholds of their own."""
    config = Clean.model_validate({"rules": rules, "thresholds": limits})
    found = judged(text, config).failures[0]
    return None if found is None else found.rule


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


def test_bullets_and_ellipses_are_shares_of_all_lines() -> None:
    assert failure(lines(0, 10, "- {}") + "\n \n\n") is None
    assert failure("\n" + lines(0, 10, "- {}")) == ("gopher_bullet_lines", 10 / 11, 0.9)
    assert failure("\n" + lines(5, 3, "{}...")) == ("gopher_ellipsis_lines", 3 / 9, 0.3)
    assert failure("\n\n" + lines(5, 3, "{}...")) is None


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


def test_the_table_of_rules_is_what_was_published() -> None:
    published = {rule.name: rule.threshold for rule in RULES}
    assert published == {
        "gopher_duplicate_lines": 0.3,
        "gopher_duplicate_paragraphs": 0.3,
        "gopher_duplicate_line_characters": 0.2,
        "gopher_duplicate_paragraph_characters": 0.2,
        "gopher_top_2gram": 0.2,
        "gopher_top_3gram": 0.18,
        "gopher_top_4gram": 0.16,
        "gopher_duplicate_5gram": 0.15,
        "gopher_duplicate_6gram": 0.14,
        "gopher_duplicate_7gram": 0.13,
        "gopher_duplicate_8gram": 0.12,
        "gopher_duplicate_9gram": 0.11,
        "gopher_duplicate_10gram": 0.1,
        "gopher_min_words": 50,
        "gopher_max_words": 100_000,
        "gopher_min_mean_word_length": 3,
        "gopher_max_mean_word_length": 10,
        "gopher_hash_to_word_ratio": 0.1,
        "gopher_ellipsis_to_word_ratio": 0.1,
        "gopher_bullet_lines": 0.9,
        "gopher_ellipsis_lines": 0.3,
        "gopher_alphabetic_words": 0.8,
        "gopher_stop_words": 2,
        "c4_line_max_word_length": 1000,
        "c4_line_terminal_mark": 1,
        "c4_line_min_words": 3,
        "c4_line_javascript": 0,
        "c4_line_policy": 0,
        "c4_lorem_ipsum": 0,
        "c4_curly_bracket": 0,
        "c4_min_sentences": 5,
        "c4_bad_words": 0,
        "fineweb_line_punctuation": 0.12,
        "fineweb_short_lines": 0.67,
        "fineweb_duplicate_line_characters": 0.01,
        "fineweb_line_breaks": 0.3,
    }
    assert tuple(dict.fromkeys(rule.preset for rule in RULES)) == PRESETS


def test_an_unknown_threshold_is_refused_with_the_nearest() -> None:
    config = Clean(thresholds={"gopher_min_word": 3})
    message = "unknown rule gopher_min_word in clean.thresholds: did you mean gopher_min_words?"
    with pytest.raises(ValueError, match=message):
        thresholds(config)
    with pytest.raises(ValueError, match=message):
        judge_batch(pa.array(["a"]), config)
    with pytest.raises(ValueError, match=message):
        statistics_table(pa.array(["a"]), config)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_threshold_of_a_set_that_is_not_listed_is_refused(rule: Rule) -> None:
    limits = {rule.name: 3.0}
    lists = ("words.txt",) if rule.listed else ()
    check_thresholds(Clean(rules=(rule.preset,), thresholds=limits, c4_bad_words=lists))
    others = tuple(each for each in PRESETS if each != rule.preset)
    message = rf"clean\.thresholds\.{rule.name} has no effect, .* its set {rule.preset}: add"
    with pytest.raises(ValueError, match=message):
        check_thresholds(Clean(rules=others, thresholds=limits))


def test_other_thresholds_and_none() -> None:
    assert rule_of(words(9), "gopher_quality") == "gopher_min_words"
    assert rule_of(words(9), "gopher_quality", gopher_min_words=9) is None
    assert rule_of(words(9), "gopher_quality", gopher_min_words=9.5) == "gopher_min_words"
    assert rule_of(words(9), "gopher_quality", gopher_min_words=None) is None
    # A threshold of a set that is not asked for may stand in the recipe.
    assert rule_of(words(50), "gopher_quality", c4_min_sentences=9) is None


def test_sets_run_in_the_order_of_the_recipe() -> None:
    text = "word " * 40
    assert rule_of(text, "gopher_quality", "gopher_repetition") == "gopher_min_words"
    assert rule_of(text, "gopher_repetition", "gopher_quality") == "gopher_top_2gram"


def test_no_sets_drop_only_what_is_empty() -> None:
    assert rule_of("x") is None
    assert rule_of(" ") == "empty"


SENTENCE = "Line {} of the rivers ends here."


def test_duplicate_lines_and_paragraphs() -> None:
    # 3 of 10 lines were there before, with 3 * 31 of 319 characters.
    text = "\n".join(SENTENCE.format(min(n, 6)) for n in range(10))
    share: dict[str, float | None] = {
        rule.name: None for rule in RULES if "gram" in rule.name or "line_char" in rule.name
    }
    assert len(text) == 319
    assert rule_of(text, "gopher_repetition", **share) is None
    config = Clean(rules=("gopher_repetition",), thresholds=share)
    row = statistics_table(pa.array([text]), config).to_pylist()[0]
    assert row["gopher_duplicate_lines"] == 0.3
    assert row["gopher_duplicate_line_characters"] == 3 * 31 / 319
    assert rule_of(text + "\n" + SENTENCE.format(6), "gopher_repetition") == (
        "gopher_duplicate_lines"
    )
    paragraphs = text.replace("\n", "\n\n")
    row = statistics_table(pa.array([paragraphs]), config).to_pylist()[0]
    assert row["gopher_duplicate_paragraphs"] == 0.3


def test_c4_changes_the_text_that_later_sets_see() -> None:
    good = "\n".join(SENTENCE.format(n) for n in "abcdef")
    bad = "\n".join(f"menu {n}" for n in range(30))
    assert rule_of(good + "\n" + bad, "fineweb") == "fineweb_short_lines"
    found = judged(good + "\n\n" + bad, Clean(rules=("c4", "fineweb")))
    assert found.failures == [None]
    assert found.texts.to_pylist() == [good]
    assert found.removed_lines["c4_line_terminal_mark"] == 30


def test_a_text_without_a_line_left_goes() -> None:
    assert rule_of("menu", "c4") == "c4_min_sentences"
    assert rule_of("menu", "c4", c4_min_sentences=None) == "empty"
    assert rule_of("menu", "c4", "fineweb", c4_min_sentences=None) == "empty"
    dropped = judged("menu", Clean(rules=("c4",)))
    assert dropped.texts.to_pylist() == ["menu"]
    assert set(dropped.removed_lines.values()) == {0}


@pytest.mark.parametrize(
    ("addition", "rule"),
    [("Some Lorem Ipsum here.", "c4_lorem_ipsum"), ("if (a) { b; c.", "c4_curly_bracket")],
)
def test_pages_that_c4_drops(addition: str, rule: str) -> None:
    good = "\n".join(SENTENCE.format(n) for n in "abcde")
    assert rule_of(good, "c4") is None
    assert rule_of(good + "\n" + addition, "c4") == rule
    assert rule_of(good + "\n" + addition, "c4", **{rule: None}) is None
    assert rule_of(good[32:], "c4") == "c4_min_sentences"


def test_fineweb() -> None:
    # Of 25 long lines with different words, 3 end in a mark: 0.12; then 2.
    long = [f"{n} " + " ".join(f"word{n}{m}" for m in range(6)) for n in range(25)]
    text = "\n".join(line + ("." if n < 3 else "") for n, line in enumerate(long))
    assert rule_of(text, "fineweb") is None
    assert rule_of(text.replace(".", "", 1), "fineweb") == "fineweb_line_punctuation"
    short = [f"short line {n} here." for n in range(4)]
    assert rule_of("\n".join([*long[:2], *short]), "fineweb", fineweb_short_lines=4 / 6) is None
    assert rule_of("\n".join([*long[:1], *short]), "fineweb") == "fineweb_short_lines"
    twice = "\n".join([*(line + "." for line in long), long[0] + "."])
    assert rule_of(twice, "fineweb") == "fineweb_duplicate_line_characters"
    breaks = "\n\n".join(line + "." for line in long)
    assert rule_of(breaks, "fineweb", fineweb_line_breaks=48 / 175) is None
    assert rule_of(breaks, "fineweb", fineweb_line_breaks=47 / 175) == "fineweb_line_breaks"


def test_stop_words_are_asked_of_english_only() -> None:
    german = "Der Fluss flie\u00dft durch das Tal und mehr " * 8
    for language, fails in ((None, True), ("en", True), ("en-US", True), ("ENG", True)):
        assert (judged(german, QUALITY, language).failures[0] is not None) == fails
        assert is_english(language)
    for language in ("de", "deu", "enm", ""):
        assert judged(german, QUALITY, language).failures == [None]


def test_thai_is_not_asked_for_marks_nor_spaces() -> None:
    letters = "".join(chr(0x0E01 + (7 * n * n + n) % 46) for n in range(400))
    text = "\n".join(letters[start : start + 40] for start in range(0, 400, 40))
    assert rule_of(text, "gopher_quality", "c4", "fineweb") is None
    row = statistics_table(pa.array([text]), Clean(rules=PRESETS)).to_pylist()[0]
    unjudged = {name for name, value in row.items() if value is None}
    assert unjudged == {rule.name for rule in RULES if rule.scope != "all"}
