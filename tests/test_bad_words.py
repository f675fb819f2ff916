# ruff: noqa: RUF001 - Greek and Cyrillic letters are meant.
"""C4's rule on bad words: what stands whole, in which scripts, where in the chain, whose list."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.recipe import Clean
from corpus.records import Record
from pipeline import reference
from pipeline.bad_words import BadWords
from pipeline.chain import Chain
from pipeline.distributions import count_bins
from pipeline.judging import judge_batch, statistics_table
from pipeline.rules import Failure, check_thresholds, thresholds
from pipeline.settled import Lists, open_lists, settle
from pipeline.spans import bytes_of

# The rule alone, of texts without line marks; the path only says that there is a list.
ONLY = Clean(
    rules=("c4",),
    thresholds={"c4_line_terminal_mark": None, "c4_line_min_words": None, "c4_min_sentences": None},
    c4_bad_words=("words.txt",),
)


def listed(*words: str) -> BadWords:
    return BadWords.build([("words.txt", "\n".join(words).encode())])


def places(text: str, *words: str) -> int:
    return int(listed(*words).find(*bytes_of(pa.array([text]))).counts[0])


@pytest.mark.parametrize(
    ("text", "word", "count"),
    [
        ("a darn shame", "darn", 1),
        ("Darn, DARN! (darn)", "darn", 3),
        ("darned undarn darn2 2darn darn_ _darn", "darn", 0),
        ("darn", "DARN", 1),
        ("darn it\ndarn  it", "darn  it", 1),  # a list's white space is one space
        ("d*rn, and", "d*rn", 1),
        ("so\U0001f595what \U0001f595", "\U0001f595", 1),
        ("ΣΑΣ και σας", "σας", 2),
        ("Чёрт! чёртик", "чёрт", 1),
        ("cafe\u0301 caf\u00e9", "caf\u00e9", 1),  # texts come in NFC; the mark belongs to the word
        # A vowel sign is part of a Hindi word.
        ("\u0939\u093f \u0939", "\u0939", 1),
        # Between words of Chinese nothing stands.
        ("他说坏话了", "坏话", 1),
        ("坏darn话", "darn", 1),
        ("xdarn坏", "darn", 0),
        ("a坏1b", "坏1", 1),
        ("darn darn it", "darn it\ndarn", 2),  # of two at one place one counts
        ("", "darn", 0),
    ],
)
def test_a_word_stands_whole_where_words_have_spaces(text: str, word: str, count: int) -> None:
    assert places(text, word) == count


# A list builds tables of a megabyte: a third of the usual examples.
fewer = settings(max_examples=33)

pieces = st.sampled_from(
    ["darn", "Darn", "darn it", "d", "x", "_", "-", " ", "\n", ".", "1", "σ", "Σ", "ς", "坏", "话",
     "\u0939", "\u093f", "é", "É", "\u0130", "\U0001f595"]
)  # fmt: skip
strings = st.lists(pieces, max_size=12).map("".join)


@fewer
@given(st.lists(strings, max_size=4), st.lists(strings.filter(str.strip), min_size=1, max_size=6))
def test_what_is_found_is_what_the_reference_finds(texts: list[str], words: list[str]) -> None:
    given = listed(*words)
    held = given.find(*bytes_of(pa.array(texts, pa.large_string())))
    for row, text in enumerate(texts):
        found = reference.find_words(text, given.words)
        assert held.counts[row] == len(found)
        if found:
            assert (held.first[row], given.words[held.word[row]]) == found[0]


@fewer
@given(
    st.lists(strings, min_size=1, max_size=4),
    st.lists(strings.filter(str.strip), min_size=1, max_size=3),
)
def test_verdicts_and_values_are_those_of_the_reference(texts: list[str], words: list[str]) -> None:
    given = listed(*words)
    judged = judge_batch(pa.array(texts, pa.large_string()), ONLY, None, given)
    table = statistics_table(pa.array(texts, pa.large_string()), ONLY, None, given)
    for text, failure, row in zip(texts, judged.failures, table.to_pylist(), strict=True):
        assert failure == reference.judge(text, ONLY, None, given.words).failure
        if failure is None or failure.rule == "c4_bad_words":
            assert row["c4_bad_words"] == (0 if failure is None else failure.value)
    assert judged.distributions["c4_bad_words"] == count_bins(
        judged.values["c4_bad_words"], "count"
    )


def verdict(text: str, config: Clean) -> Failure | None:
    return judge_batch(pa.array([text]), config, ["en"], listed("darn")).failures[0]


def test_a_text_is_asked_for_what_c4_left_of_it() -> None:
    assert verdict("What a darn day.", ONLY) == Failure(
        "c4_bad_words", 1, 0, "'darn' at character 8"
    )
    marked = ONLY.model_copy(update={"thresholds": {"c4_min_sentences": None}})
    assert verdict("A fine day it is.\nA darn one, without a mark", marked) is None
    # The rules before it in its set come first, the sets after it later.
    assert verdict("A {darn} day.", ONLY) == Failure("c4_curly_bracket", 1, 0)
    both = ONLY.model_copy(update={"rules": ("c4", "gopher_quality")})
    assert verdict("A darn day.", both) == Failure("c4_bad_words", 1, 0, "'darn' at character 3")


def test_a_threshold_lets_some_pass_or_all() -> None:
    for limit, expected in ((1, None), (None, None), (0, "c4_bad_words")):
        config = ONLY.model_copy(update={"thresholds": {**ONLY.thresholds, "c4_bad_words": limit}})
        found = verdict("A darn day it is.", config)
        assert (found and found.rule) == expected


def test_without_a_list_there_is_no_rule() -> None:
    config = Clean(rules=("c4",))
    assert "c4_bad_words" not in thresholds(config)
    assert "c4_bad_words" in thresholds(ONLY)
    with pytest.raises(ValueError, match=r"c4_bad_words has no effect without clean\.c4_bad_words"):
        check_thresholds(Clean(rules=("c4",), thresholds={"c4_bad_words": 3}))
    with pytest.raises(
        ValueError, match=r"clean\.c4_bad_words has no effect, as clean\.rules does"
    ):
        check_thresholds(Clean(rules=("fineweb",), c4_bad_words=("words.txt",)))


def test_a_list_is_known_by_its_words() -> None:
    one = BadWords.build(
        [("a.txt", b"darn\r\nHeck\n\n"), ("b.gz", gzip.compress(b"darn", mtime=0))]
    )
    other = BadWords.build([("x.txt", b"\xef\xbb\xbfheck\nDARN")])
    assert one.words == ("darn", "heck")
    assert one.fingerprint == other.fingerprint != listed("darn").fingerprint
    assert BadWords.parse(one.to_bytes()) == one


def test_a_list_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.txt holds no word: leave it out"):
        BadWords.build([("a.txt", b"\n \n")])
    with pytest.raises(ValueError, match=r"a\.txt is no list of words in UTF-8"):
        BadWords.build([("a.txt", b"caf\xe9")])
    with pytest.raises(ValueError, match="no list of bad words: it was written by another version"):
        BadWords.parse(b'{"version": 0, "words": []}')
    with pytest.raises(ValueError, match="no list of bad words"):
        BadWords.parse(b"x")


def test_the_chain_asks_for_the_list_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("darn\n")
    config, lists = settle(ONLY.model_copy(update={"c4_bad_words": (str(path),)}))
    assert config.c4_bad_words == tuple(lists)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / config.c4_bad_words[0]).write_bytes(lists[config.c4_bad_words[0]])
    chain = Chain(config, open_lists(str(tmp_path), config))
    texts = ["A darn day it is.", "A fine day it is."]
    records = [Record(n, str(n), text, None, None, None) for n, text in enumerate(texts, 1)]
    judged = chain.clean(records, "s")
    assert [each and each.rule for each in judged.failures] == ["c4_bad_words", None]
    assert judged.distributions["c4_bad_words"] == {"0": 1, "1": 1}
    looked = next(each for each in judged.looked if "c4_bad_words" in each.values)
    assert looked.values["c4_bad_words"].tolist() == [1, 0]
    assert Lists().bad_words is None
