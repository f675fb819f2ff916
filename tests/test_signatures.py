"""The fast shingles against the readable ones, the estimates against their theory."""

import hashlib
import math
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stage_helpers import Given, clean_parts

from corpus.documents import text_hash
from corpus.recipe import Dedup
from corpus.snapshots import Tree
from pipeline import signatures
from pipeline.keys import EXACT_BAND, ID_BAND, INDEX_SCHEMA, SET_BAND
from pipeline.signatures import (
    character_class,
    normalize,
    permutations,
    reference_shingles,
    set_hash,
    sign,
)
from pipeline.stretch import open_arrow

SMALL = Dedup(bands=4, rows=2, ngram=2)
DEFAULT = Dedup()

# Characters whose case, width, composition or class is special in some way.
ODD = (
    "aAbB\u00df\u1e9e\u0130\u0131i\u0307\u01c5\u01c4\u03a3\u03c3\u03c2\u0345\u1f80"  # case
    "e\u0301\u00e9\u212b\u1e9b\u0323\ud55c\u1112\u1161\u11ab"  # composition
    "\u4f60\u597d\U00020000\u3042\u30ab\u30fc\uff76\u3005\u0e01\u0e34\u0e49\u0eab\u1780\u17b6"
    "\u1000\u102c\u0f40\u0f71"  # scripts without spaces
    "\u0628\u064e\u0905\u093f\u05d0\u05b0"  # words with marks
    "\U0001f600\ufe0f\u200d\U0001f468\u00b2\u0663\u2167_'-.!\u3002\u00a0\u3000\u2028\t\n 09"
)
ODD_TEXT = st.text(st.sampled_from(ODD), max_size=40) | st.text(max_size=40)


def test_words_by_hand() -> None:
    assert reference_shingles("It's  a CAT!", 2) == {("it", "s"), ("s", "a"), ("a", "cat")}
    assert reference_shingles("na\u00efve nai\u0308ve", 1) == {("na\u00efve",)}
    assert reference_shingles("\u4f60\u597d abc\u4e16", 2) == {
        ("\u4f60", "\u597d"), ("\u597d", "abc"), ("abc", "\u4e16"),
    }  # fmt: skip
    assert reference_shingles("\u0e01\u0e34", 1) == {("\u0e01",), ("\u0e34",)}
    assert reference_shingles("x_y 3.14", 1) == {("x",), ("y",), ("3",), ("14",)}
    assert reference_shingles("a b", 3) == set()
    assert reference_shingles("", 1) == set()
    assert reference_shingles("a b a b a", 2) == {("a", "b"), ("b", "a")}


@pytest.mark.parametrize(
    ("character", "kind"),
    [("a", 1), ("7", 1), ("\u0301", 1), ("\ud55c", 1), ("\u4f60", 2), ("\u30ab", 2),
     ("\u0e34", 2), (" ", 0), ("_", 0), ("\U0001f600", 0), ("\u3002", 0), ("\u200d", 0)],
)  # fmt: skip
def test_character_classes(character: str, kind: int) -> None:
    assert character_class(character) == kind


@given(ODD_TEXT, ODD_TEXT, st.integers(1, 3))
@example("\u0130x \u0130x", "i\u0307x", 1)
@example("\u1e9e \u00df", "SS", 1)
@example("\u039f\u03a3 \u03a3", "\u03bf\u03c2", 1)
@example("\U0010ffff a\U00010000b", "\ufffd", 1)
def test_fast_shingles_are_the_reference_shingles(one: str, other: str, ngram: int) -> None:
    config = Dedup(bands=1, rows=1, ngram=ngram)
    signed = sign([one, other], config)
    fast = [
        signed.shingles[start:stop]
        for start, stop in zip(signed.offsets[:-1], signed.offsets[1:], strict=True)
    ]
    readable = [reference_shingles(text, ngram) for text in (one, other)]
    for numbers, words in zip(fast, readable, strict=True):
        assert len(numbers) == len(words)
        assert (np.diff(numbers.astype(object)) > 0).all()
    assert len(np.intersect1d(fast[0], fast[1])) == len(readable[0] & readable[1])


def test_every_character_is_lowered_by_the_table_or_by_python() -> None:
    """Each character between two letters gives the reference's words, alone and in any text."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    longer = [each for each in characters if len(each.lower()) > 1]
    assert longer == ["\u0130"]
    assert all(each.lower().lower() == each.lower() for each in characters)
    texts = [f"a{each}b" for each in characters if each.lower() != each]
    upper, lower = (
        sign(each, Dedup(bands=1, rows=1, ngram=1))
        for each in (texts, [normalize(text) for text in texts])
    )
    assert (upper.offsets == lower.offsets).all()
    assert (upper.shingles == lower.shingles).all()


@given(st.text(st.characters(max_codepoint=127), max_size=200), st.integers(1, 5))
def test_ascii_text_is_hashed_as_any_other(text: str, ngram: int) -> None:
    config = Dedup(bands=2, rows=2, ngram=ngram)
    plain = sign([text, text], config)
    beside = sign([f"{text}\u3002", f"\u2014{text} "], config)
    assert (plain.shingles == beside.shingles).all()
    assert (plain.keys == beside.keys).all()
    # A capital sigma sends the whole text through Python's lower().
    lowered = sign([f"\u03a3\u3002{text}"], Dedup(bands=2, rows=2, ngram=1)).shingles
    assert np.isin(sign([text], Dedup(bands=2, rows=2, ngram=1)).shingles, lowered).all()


@given(st.lists(ODD_TEXT, min_size=1, max_size=5))
def test_a_batch_does_not_show(texts: list[str]) -> None:
    together = sign(texts, SMALL)
    for n, text in enumerate(texts):
        alone = sign([text], SMALL)
        start, stop = together.offsets[n : n + 2]
        assert (together.shingles[start:stop] == alone.shingles).all()
        assert (together.signatures[n] == alone.signatures[0]).all()
        assert (together.keys[n] == alone.keys[0]).all()


def test_the_batches_of_an_index_do_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    documents = [Given(f"{n}", words_of(rng, rng.randint(0, 30))) for n in range(40)]
    documents = [each for each in documents if each.text]
    spread = [list(enumerate(documents))]
    (name,) = clean_parts(Tree(str(tmp_path / "one")), spread, SMALL)
    monkeypatch.setattr(signatures, "_BATCH_BYTES", 50)
    clean_parts(Tree(str(tmp_path / "other")), spread, SMALL)
    for kind in ("documents", "keys"):
        file = f"index/{name}.{kind}.arrow"
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


def test_minima_by_hand() -> None:
    """The signature is the least a*x + b modulo 2^32 of each permutation, x the upper half."""
    signed = sign(["a b c d"], Dedup(bands=2, rows=3, ngram=2))
    multipliers, addends = permutations(6)
    assert len(signed.shingles) == 3
    expected = [
        min((int(a) * (int(x) >> 32) + int(b)) % 2**32 for x in signed.shingles)
        for a, b in zip(multipliers, addends, strict=True)
    ]
    assert signed.signatures[0].tolist() == expected
    assert all(int(a) % 2 == 1 for a in multipliers)


def test_fewer_permutations_are_the_first_of_more() -> None:
    for fewer, more in zip(permutations(16), permutations(256), strict=True):
        assert (fewer == more[:16]).all()


def test_golden_values() -> None:
    """Stored indexes hold these values: they change only with VERSION."""
    text = "The quick brown fox jumps over the lazy dog, \u4f60\u597d \u0130stanbul na\u00efve."
    signed = sign([text], DEFAULT)
    assert signatures.VERSION == 3
    assert len(signed.shingles) == 9
    assert set_hash(signed.shingles) == bytes.fromhex("87b44ded002be7d813b0b58b8ae39c23")
    assert [f"{key:016x}" for key in signed.keys[0, :3]] == [
        "6a80764f08e7d39e",
        "72cd08849c270e87",
        "736a628dc9b81d14",
    ]
    assert (
        hashlib.sha256(signed.keys.astype("<u8").tobytes()).hexdigest()[:16] == "7d73a8b30952c720"
    )
    assert (
        hashlib.sha256(signed.signatures.astype("<u4").tobytes()).hexdigest()[:16]
        == "c59dcaf169d7614b"
    )


def test_the_hash_of_a_set() -> None:
    one, other = (sign([text], SMALL).shingles for text in ("a b c", "A, b... c?"))
    assert set_hash(one) == set_hash(other)
    assert set_hash(one) != set_hash(sign(["a b d"], SMALL).shingles)
    assert set_hash(sign(["a"], SMALL).shingles) is None


def words_of(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(count))


def similar_pairs(seed: int, count: int) -> tuple[list[str], list[str], np.ndarray]:
    """Return pairs of texts that share a prefix of some length, with their true similarity."""
    rng = random.Random(seed)
    ones, others, true = [], [], []
    for _ in range(count):
        shared, own = words_of(rng, rng.randint(100, 300)), rng.randint(1, 80)
        ones.append(shared + " " + words_of(rng, own))
        others.append(shared + " " + words_of(rng, own))
        sets = [reference_shingles(text, 5) for text in (ones[-1], others[-1])]
        true.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    return ones, others, np.array(true)


def test_estimates_follow_the_true_similarity() -> None:
    """A share of k equal minima has variance s(1-s)/k (Broder 1997)."""
    ones, others, true = similar_pairs(1, 400)
    first, second = (sign(texts, DEFAULT).signatures for texts in (ones, others))
    permutation_count = first.shape[1]
    assert permutation_count == 256
    errors = (first == second).mean(axis=1) - true
    theory = math.sqrt((true * (1 - true)).mean() / permutation_count)
    assert 0.85 < math.sqrt((errors**2).mean()) / theory < 1.15
    assert abs(errors.mean()) < 4 * theory / math.sqrt(len(true))


@pytest.mark.parametrize(("bands", "rows"), [(32, 8), (14, 8), (5, 3)])
def test_bands_find_the_share_of_pairs_that_theory_says(bands: int, rows: int) -> None:
    ones, others, true = similar_pairs(2, 600)
    config = Dedup(bands=bands, rows=rows)
    first, second = (sign(texts, config).keys for texts in (ones, others))
    expected = 1 - (1 - true**rows) ** bands
    spread = math.sqrt((expected * (1 - expected)).sum())
    found = int((first == second).any(axis=1).sum())
    assert abs(found - expected.sum()) < 3.5 * spread
    assert (expected < 0.9).any()


def test_unrelated_texts_share_no_band() -> None:
    rng = random.Random(5)
    keys = sign([words_of(rng, 100) for _ in range(300)], DEFAULT).keys
    assert len(np.unique(keys)) == keys.size


def test_an_index_by_hand(tmp_path: Path) -> None:
    documents = [Given("b", "one two three"), Given("a", "short"), Given("c", "ONE two, three")]
    (name,) = clean_parts(Tree(str(tmp_path)), [list(enumerate(documents))], SMALL)
    index = open_arrow(f"{tmp_path}/index/{name}.documents.arrow")
    assert index.schema == INDEX_SCHEMA
    assert index["id"].to_pylist() == ["s/a", "s/b", "s/c"]
    assert index["text_bytes"].to_pylist() == [5, 13, 14]
    sets = index["set_hash"].to_pylist()
    assert sets[0] is None
    assert sets[1] == sets[2] is not None
    keys = open_arrow(f"{tmp_path}/index/{name}.keys.arrow").to_pylist()
    found = sorted((key["row"], key["band"]) for key in keys)
    bands = [*range(SMALL.bands), SET_BAND, EXACT_BAND, ID_BAND]
    assert found == [(0, EXACT_BAND), (0, ID_BAND), *((row, b) for row in (1, 2) for b in bands)]
    order = [(key["key"], key["band"], key["row"]) for key in keys]
    assert order == sorted(order)
    by_place = {(key["row"], key["band"]): key["key"] for key in keys}
    signed = sign(["one two three"], SMALL).keys[0].tolist()
    assert [by_place[1, band] for band in range(SMALL.bands)] == signed
    identity = hashlib.sha256(b"s/a").digest()[:8]
    assert by_place[0, ID_BAND] == int.from_bytes(identity, "big")


def test_an_index_of_nothing(tmp_path: Path) -> None:
    (name,) = clean_parts(Tree(str(tmp_path)), [[]], DEFAULT)
    for kind in ("documents", "keys"):
        assert len(open_arrow(f"{tmp_path}/index/{name}.{kind}.arrow")) == 0


@given(st.lists(ODD_TEXT, min_size=1, max_size=4), st.sampled_from(["\n", "\t ", "\u3000"]))
def test_texts_of_one_exact_hash_have_one_shingle_set(words: list[str], space: str) -> None:
    one, other = " ".join(words), space.join(words) + space
    assert text_hash(one) == text_hash(other)
    assert reference_shingles(one, 2) == reference_shingles(other, 2)
