"""The tokenizer that is trained: RoBERTa's layout, the reference trainer's merges, no order."""

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from chain_helpers import Chain, Delivery, prepare, tables
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_helpers import Given, clean_parts, deduplicate, spread
from test_bpe import reference_merges

from corpus.files import exists, list_names
from corpus.recipe import Dedup
from corpus.recipe import Tokenizer as TokenizerConfig
from corpus.snapshots import Tree, tokenizer_root
from corpus.tokenizer import Tokenizer, byte_alphabet, open_tokenizer, split_words
from pipeline.clean import kept_mask
from pipeline.jobs import Output
from pipeline.parquet import read_table
from pipeline.refresh import refresh
from pipeline.stretch import open_arrow
from pipeline.vocabulary import (
    SAMPLE_RANGE,
    SHARE_BYTES,
    add_up,
    count_part,
    count_shares,
    learn,
    sample_below,
    sampling_hash,
    train,
)


def some_texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    stems = [
        "the",
        "there",
        "these",
        "token",
        "tokens",
        "na\u00efve",
        "\u4f60\u597d",
        "=====",
        "1999",
    ]
    return [" ".join(rng.choices(stems, k=rng.randint(5, 40))) + "." for _ in range(count)]


def model_of(definition: bytes) -> Any:  # noqa: ANN401 - JSON
    return orjson.loads(definition)["model"]


def test_the_layout_is_robertas() -> None:
    definition = train(iter(some_texts(1, 50)), 290)
    vocabulary: dict[str, int] = model_of(definition)["vocab"]
    tokenizer = Tokenizer(definition)
    assert {token: vocabulary[token] for token in ("<s>", "<pad>", "</s>", "<unk>")} == {
        "<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3,
    }  # fmt: skip
    assert tokenizer.mask_id == vocabulary["<mask>"] == len(vocabulary) - 1 == 289
    assert sorted(vocabulary.values()) == list(range(290))
    assert {vocabulary[char] for char in byte_alphabet().values()} == set(range(4, 260))


def test_the_first_merges_by_hand() -> None:
    """ab occurs 3 times; then abc, xy and cd twice, of which the least pair of ids goes first."""
    definition = train(iter(["abc abc ab", "xy cd xy cd"]), 4 + 256 + 4 + 1)
    merges = [tuple(merge) for merge in model_of(definition)["merges"]]
    assert merges[0] == ("a", "b")
    counted = Counter({("ab", "c"): 2, ("x", "y"): 2, ("c", "d"): 2})
    assert set(merges[1:]) < set(counted) | {("\u0120", "ab"), ("\u0120", "c"), ("\u0120", "x")}
    assert len(merges) == 4


@pytest.mark.parametrize("seed", [1, 2])
def test_the_merges_are_the_reference_trainers(seed: int) -> None:
    texts = some_texts(seed, 60)
    expected = reference_merges(texts, 320)
    found = model_of(train(iter(texts), 320))
    assert [tuple(merge) for merge in found["merges"]] == expected
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(byte_alphabet().values())]
    tokens += [left + right for left, right in expected]
    assert found["vocab"] == {token: n for n, token in enumerate([*tokens, "<mask>"])}


def test_the_order_of_documents_does_not_show() -> None:
    texts = some_texts(3, 200)
    definition = train(iter(texts), 400)
    for seed in range(4):
        shuffled = random.Random(seed).sample(texts, len(texts))
        assert train(iter(shuffled), 400) == definition
    assert train(iter(texts[:100]), 400) != definition


def test_a_small_corpus_gives_a_smaller_vocabulary() -> None:
    assert Tokenizer(train(iter(["abc"]), 5000)).vocab_size == 261
    # ab, abc and " abc" occur twice or more: three merges.
    assert Tokenizer(train(iter(["abc abc abc"]), 5000)).vocab_size == 264
    assert Tokenizer(train(iter([]), 261)).vocab_size == 261


@settings(max_examples=60)
@given(st.lists(st.text(st.sampled_from("aab =.\n<s>/mk"), min_size=1, max_size=60), max_size=12))
def test_runs_of_one_character_give_no_token_twice(texts: list[str]) -> None:
    """Where two merges made one token, ids would have a gap and <mask> not be last."""
    definition = train(iter(texts * 2), 400)
    tokenizer = Tokenizer(definition)
    merges = model_of(definition)["merges"]
    assert len({"".join(merge) for merge in merges}) == len(merges)
    for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
        assert tokenizer.decode(ids) == text


DOCUMENTS = [Given(f"{n}", f"text number {n % 4} of a few") for n in range(10)]
CONFIG = Dedup(partitions=1, ngram=2)


@pytest.fixture
def parts(tmp_path: Path) -> list[str]:
    tree = Tree(str(tmp_path))
    names = clean_parts(tree, spread(DOCUMENTS, [3, 3]), CONFIG)
    deduplicate(tree, names, CONFIG)
    return names


def kept_texts(tree: Tree, parts: list[str]) -> list[str]:
    tables = [read_table(tree.find(f"clean/{part}.parquet")) for part in parts]
    kept = [
        table.filter(kept_mask(tree, part, len(table)))
        for part, table in zip(parts, tables, strict=True)
    ]
    return [text for table in kept for text in table["text"].to_pylist()]


def count_and_learn(tree: Tree, store: str, config: TokenizerConfig, parts: list[str]) -> Output:
    counted = [count_part(tree, f"count-{part}", part, SAMPLE_RANGE).paths[0] for part in parts]
    added = add_up(tree, "all", (0, 1), counted).paths
    return learn(tree, "tokenizer", store, config, added)


def counts_of(tree: Tree, paths: Iterable[str]) -> Counter[str]:
    total = Counter[str]()
    for path in paths:
        table = open_arrow(tree.own(path))
        words, hashes = table["word"].to_pylist(), table["hash"].to_pylist()
        assert len(words) == len(set(words))
        assert hashes == sorted(hashes)
        total.update(dict(zip(words, table["count"].to_pylist(), strict=True)))
    return total


def test_kept_documents_are_those_that_are_no_duplicates(tmp_path: Path, parts: list[str]) -> None:
    tree = Tree(str(tmp_path))
    masks = [kept_mask(tree, part, count) for part, count in zip(parts, (3, 0, 7), strict=True)]
    assert [len(mask) for mask in masks] == [3, 0, 7]
    assert sum(int(mask.sum()) for mask in masks) == 4
    assert sorted(kept_texts(tree, parts)) == sorted(f"text number {n} of a few" for n in range(4))


def test_the_tokenizer_is_trained_on_what_stays(tmp_path: Path, parts: list[str]) -> None:
    tree, store = Tree(str(tmp_path)), str(tmp_path / "store")
    output = count_and_learn(tree, store, TokenizerConfig(vocab_size=280), parts)
    fingerprint = output.counts["fingerprint"]
    assert output.paths == ()
    directory = tokenizer_root(store, fingerprint)
    assert list_names(directory) == [
        "merges.txt", "special_tokens_map.json", "tokenizer.json", "vocab.json",
    ]  # fmt: skip
    tokenizer = open_tokenizer(directory)
    assert tokenizer.definition == train(kept_texts(tree, parts), 280)
    assert (tokenizer.fingerprint, tokenizer.vocab_size) == (
        fingerprint, output.counts["vocab_size"],
    )  # fmt: skip
    again = count_and_learn(tree, store, TokenizerConfig(vocab_size=280), parts[::-1])
    assert again == output


def test_words_of_kept_documents_are_counted(tmp_path: Path, parts: list[str]) -> None:
    tree = Tree(str(tmp_path))
    outputs = [count_part(tree, f"task-{part}", part, SAMPLE_RANGE) for part in parts]
    assert [output.paths for output in outputs] == [
        (f"work/count-words/task-{part}.arrow",) for part in parts
    ]
    texts = kept_texts(tree, parts)
    assert sum(output.counts["documents"] for output in outputs) == len(texts) == 4
    assert sum(output.counts["text_bytes"] for output in outputs) == len("".join(texts).encode())
    expected = Counter(word.decode() for text in texts for word in split_words(text))
    assert counts_of(tree, [output.paths[0] for output in outputs]) == expected
    before = (tmp_path / outputs[0].paths[0]).read_bytes()
    (again,) = count_part(tree, "again", parts[0], SAMPLE_RANGE).paths
    assert (tmp_path / again).read_bytes() == before


@pytest.mark.parametrize("cuts", [[], [1, 2, 3, 20, 20, 39]])
def test_parts_and_their_order_do_not_show(tmp_path: Path, cuts: list[int]) -> None:
    texts = some_texts(7, 40)
    tree = Tree(str(tmp_path))
    documents = [Given(f"{n}", text) for n, text in enumerate(texts)]
    names = clean_parts(tree, spread(documents, cuts), CONFIG)
    deduplicate(tree, names, Dedup(partitions=1, threshold=1))
    counted = [count_part(tree, name, name, SAMPLE_RANGE).paths[0] for name in names]
    config, expected = TokenizerConfig(vocab_size=330), counts_of(tree, counted)
    for paths, total in ((counted, 1), (counted[::-1], 1), (counted, 2), (counted, 7)):
        added = [add_up(tree, f"{n}-of-{total}", (n, total), paths).paths[0] for n in range(total)]
        shares = [counts_of(tree, [path]) for path in added]
        assert sum(map(len, shares)) == len(expected)
        assert sum(shares, Counter()) == expected
        assert total < 7 or all(0 < len(share) < len(expected) for share in shares)
        made = learn(tree, "learn", str(tmp_path / "store"), config, added)
        assert made.counts["fingerprint"] == Tokenizer(train(texts, 330)).fingerprint


def test_shares_do_not_show_in_a_refresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)
    records = [{"id": f"{n}", "text": text} for n, text in enumerate(some_texts(9, 60))]
    delivery = Delivery("one", {("a", "f.jsonl"): records})
    whole = Chain(tmp_path / "whole", {"threshold": 1, "ngram": 5}).deliver(delivery)
    monkeypatch.setattr("pipeline.vocabulary.SHARE_BYTES", 100)
    added = list[tuple[int, int]]()

    def note(tree: Tree, task: str, share: tuple[int, int], counted: list[str]) -> Output:
        added.append(share)
        return add_up(tree, task, share, counted)

    monkeypatch.setattr("pipeline.vocabulary.add_up", note)
    shared = Chain(tmp_path / "shared", {"threshold": 1, "ngram": 5}).deliver(delivery)
    assert added == [(n, len(added)) for n in range(len(added))]
    assert len(added) > 1
    assert shared.fingerprint == whole.fingerprint


def test_shares_follow_what_was_counted() -> None:
    assert [count_shares(n) for n in (0, 1, SHARE_BYTES, SHARE_BYTES + 1)] == [1, 1, 1, 2]


def test_a_sample_goes_by_the_documents_ids(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    documents = [Given(f"{n}", f"document{n}") for n in range(200)]
    names = clean_parts(tree, spread(documents, [50]), CONFIG)
    deduplicate(tree, names, CONFIG)
    seen = 0
    for below in (0, SAMPLE_RANGE // 4, SAMPLE_RANGE):
        wanted = {n for n in range(200) if sampling_hash(f"s/{n}") < below}
        counted = [count_part(tree, f"{below}-{name}", name, below) for name in names]
        assert sum(output.counts["documents"] for output in counted) == len(wanted)
        words = counts_of(tree, [output.paths[0] for output in counted])
        assert {word for word in words if word.isdigit()} == {str(n) for n in wanted}
        assert len(wanted) >= seen
        seen = len(wanted)
    assert 25 < sum(sampling_hash(f"s/{n}") < SAMPLE_RANGE // 4 for n in range(200)) < 75


def test_a_refresh_learns_from_the_sample_that_its_recipe_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(monkeypatch)
    records = [{"id": f"{n}", "text": text} for n, text in enumerate(some_texts(8, 60))]
    chain = Chain(tmp_path, {"threshold": 1, "ngram": 5})
    recipe = chain.recipe(Delivery("one", {("a", "f.jsonl"): records}))
    half = recipe.tokenizer.model_copy(update={"sample_fraction": 0.5})
    snapshot = refresh(recipe.model_copy(update={"tokenizer": half})).snapshot
    kept = {row["id"]: row["text"] for row in tables(chain.store, snapshot, "clean")}
    sample = [text for key, text in kept.items() if sampling_hash(key) < SAMPLE_RANGE // 2]
    assert 10 < len(sample) < 50
    expected = Tokenizer(train(sample, half.vocab_size)).fingerprint
    assert snapshot.tokenizer == expected != Tokenizer(train(kept.values(), 280)).fingerprint
    with pytest.raises(ValueError, match=r"tokenizer.sample_fraction was 0.5 when this store"):
        refresh(recipe.model_copy(update={"snapshot": "two"}))


def test_a_sample_without_text_is_refused(tmp_path: Path) -> None:
    tree = Tree(str(tmp_path))
    config = TokenizerConfig(sample_fraction=0.001)
    assert sample_below(config) == round(SAMPLE_RANGE / 1000)
    with pytest.raises(ValueError, match=r"sample_fraction 0.001 leaves no text"):
        learn(tree, "learn", str(tmp_path), config, [])
    with pytest.raises(ValueError, match="one that is trained already"):
        TokenizerConfig(path="somewhere", sample_fraction=0.5)


def test_an_existing_tokenizer_is_taken_as_it_is(tmp_path: Path) -> None:
    definition = train(iter(some_texts(5, 20)), 290)
    given_path = tmp_path / "given"
    given_path.mkdir()
    (given_path / "tokenizer.json").write_bytes(orjson.dumps(orjson.loads(definition), option=2))
    config = TokenizerConfig(path=str(given_path))
    output = learn(Tree("/unused"), "tokenizer", str(tmp_path / "store"), config, [])
    assert output.counts == {"fingerprint": Tokenizer(definition).fingerprint, "vocab_size": 290}
    assert exists(tokenizer_root(str(tmp_path / "store"), output.counts["fingerprint"]))
