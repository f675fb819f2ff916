"""Decontamination: how evaluation files are read, which documents hold an example, whole lists."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.contamination import Contamination
from pipeline.examples import read_examples
from pipeline.rules import Failure
from pipeline.signatures import reference_shingles

ALPHABET = [chr(97 + n) * 2 for n in range(26)]
THIRTEEN = " ".join(ALPHABET[:13])


def find(contamination: Contamination, *texts: str) -> list[Failure | None]:
    return contamination.find(pa.array(texts))


def test_thirteen_words_in_a_row_are_found() -> None:
    listed = Contamination.build([("x.txt", b"header\n" + " ".join(ALPHABET[:14]).encode())], 13)
    found = find(
        listed,
        THIRTEEN,
        f"Before, {THIRTEEN.upper().replace(' ', ', ')} after",
        " ".join(ALPHABET[:14]),
        " ".join(ALPHABET[:12]),
        " ".join(ALPHABET[12::-1]),
        "",
    )
    once = Failure("contaminated", 1, 1, "example 2 of x.txt")
    twice = once._replace(value=2)
    assert found == [once, once, twice, None, None, None]
    assert listed.too_short == (1,)


def test_a_text_of_eight_to_twelve_words_counts_whole() -> None:
    eight, seven = " ".join(ALPHABET[:8]), " ".join(ALPHABET[10:17])
    listed = Contamination.build([("a.tsv", f"{eight}\t{seven}\n{seven}".encode())], 13)
    assert listed.sizes == (8,)
    assert listed.too_short == (1,)
    assert find(listed, f"zz {eight} zz", seven, " ".join(ALPHABET[:7])) == [
        Failure("contaminated", 1, 1, "example 1 of a.tsv"),
        None,
        None,
    ]


def test_shorter_ngrams_may_be_asked_for() -> None:
    listed = Contamination.build([("a.txt", b"one two three four")], 3)
    assert [each and each.value for each in find(listed, "one two three", "two one", "x")] == [
        1,
        None,
        None,
    ]


def test_an_ngram_of_several_examples_names_the_first() -> None:
    files = [("a.txt", b"\n" + THIRTEEN.encode()), ("b.txt", f"{THIRTEEN}\n".encode())]
    for order in (files, files[::-1]):
        name, number = order[0][0], 2 if order[0][0] == "a.txt" else 1
        assert find(Contamination.build(order, 13), THIRTEEN) == [
            Failure("contaminated", 1, 1, f"example {number} of {name}")
        ]


def test_words_compare_whatever_their_case_in_any_script() -> None:
    text = "\u0130stanbul \u039f\u0394\u039f\u03a3 \u00c9cole " + THIRTEEN
    listed = Contamination.build([("a.txt", text.encode())], 16)
    assert find(listed, text)[0] is not None
    assert find(listed, text.lower())[0] is not None
    assert find(listed, text, "plain")[1] is None
    chinese = Contamination.build([("a.txt", "归责原则是环境侵权制度的核心".encode())], 13)
    assert [each and each.value for each in find(chinese, "说,归责原则是环境侵权制度的核心。")] == [
        2
    ]


def test_lists_are_read_back_and_known_by_content() -> None:
    listed = Contamination.build([("a.txt", THIRTEEN.encode()), ("b.txt", b"short")], 13)
    read = Contamination.parse(listed.to_bytes())
    assert read.to_bytes() == listed.to_bytes()
    assert read.fingerprint == listed.fingerprint
    assert read.too_short == (0, 1)
    assert find(read, THIRTEEN) == find(listed, THIRTEEN)
    changed = Contamination.build([("a.txt", b"zz" + THIRTEEN.encode()), ("b.txt", b"short")], 13)
    assert changed.fingerprint != listed.fingerprint
    nothing = Contamination.build([], 13)
    assert find(Contamination.parse(nothing.to_bytes()), THIRTEEN) == [None]


def test_a_damaged_list_is_refused() -> None:
    listed = Contamination.build([("a.txt", THIRTEEN.encode())], 13)
    with pytest.raises(ValueError, match="19 bytes of n-grams, expected 20"):
        Contamination.parse(listed.to_bytes()[:-1])
    with pytest.raises(ValueError, match="no list of evaluation n-grams"):
        Contamination.parse(b"x")
    with pytest.raises(ValueError, match="another version"):
        Contamination.parse(b'{"versions": [0, 0]}\n')


words = st.sampled_from(["a", "b", "C"])
texts = st.lists(words, max_size=16).map(" ".join)


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4), st.integers(1, 10))
def test_what_is_found_is_what_sets_of_words_share(
    examples: list[str], documents: list[str], ngram: int
) -> None:
    listed = Contamination.build([("x.txt", "\n".join(examples).encode())], ngram)
    wanted: set[tuple[str, ...]] = set()
    for example in examples:
        size = min(ngram, len(example.split()))
        wanted |= reference_shingles(example, size) if size >= min(8, ngram) else set()
    for document, failure in zip(documents, find(listed, *documents), strict=True):
        shared = [reference_shingles(document, n) & wanted for n in range(1, ngram + 1)]
        assert (failure is not None) == any(shared)


def test_real_evaluation_files_find_themselves(shared_data: Path) -> None:
    folder = shared_data / "finetune"
    names = ["rte/dev.tsv.gz", "qa/squad2-dev-half.json.gz", "ner/gum-test.conll.gz"]
    listed = Contamination.build([(name, (folder / name).read_bytes()) for name in names], 13)
    for number, name in enumerate(names):
        examples = list(read_examples(name, (folder / name).read_bytes()))
        found = find(listed, *("\n\n".join(example) for example in examples))
        assert sum(each is None for each in found) == listed.too_short[number]
        assert all(each is None or " of " in str(each.detail) for each in found)
