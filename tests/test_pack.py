"""Shards part the documents by their hashes; parts and merging do not show in a shard."""

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from corpus.membership import ShardPlan, documents_in, split_range, tokens_path
from corpus.recipe import Pack
from corpus.shards import Shard
from corpus.snapshots import Tree
from pipeline.encode import tokens_schema
from pipeline.jobs import Output
from pipeline.pack import pack_shard, read_documents
from pipeline.plans import TokenFiles, plan_shards
from pipeline.signatures import write_arrow


def write_tokens(
    root: Path, parts: dict[str, list[tuple[int, str, list[int]]]], vocab: int = 300
) -> None:
    """Write tokens files of (hash, id, sentence lengths); tokens count up from the hash's end."""
    for name, documents in parts.items():
        rows = []
        for hashed, identity, lengths in sorted(documents):
            total = sum(lengths)
            rows.append(
                {
                    "id": identity, "hash": hashed,
                    "token_ids": [10 + (len(identity) * 7 + n) % 200 for n in range(total)],
                    "sentence_starts": np.cumsum([0, *lengths[:-1]]).tolist(),
                    "word_starts": [True] * total,
                }
            )  # fmt: skip
        table = pa.Table.from_pylist(rows, schema=tokens_schema(vocab))
        write_arrow(f"{root}/tokens/{name}.arrow", table)


TOP = 2**64 - 1


def ids_in(tree: Tree, parts: list[str], low: int, high: int) -> list[str]:
    return [each.id for each in documents_in(tree, parts, low, high)]


def packed(
    tree: Tree, plan: ShardPlan, config: Pack, parts: Iterable[str], vocab: int = 300
) -> Output:
    """Pack a shard from the tokens of some parts."""
    source = TokenFiles(tuple(map(tokens_path, parts)))
    return pack_shard(tree, plan.name, plan, (config, ("f" * 64, vocab)), source)


def hashed_documents(count: int) -> list[tuple[int, str, list[int]]]:
    rng = np.random.default_rng(4)
    hashes = rng.integers(0, TOP, count, dtype=np.uint64, endpoint=True)
    lengths = rng.integers(1, 12, (count, 3))
    return [
        (int(hashed), f"s/{'x' * n}", length.tolist())
        for n, (hashed, length) in enumerate(zip(hashes, lengths, strict=True))
    ]


@pytest.mark.parametrize("fraction", [0.0, 0.005, 0.1, 0.5, 0.999, 1 - 2**-53])
def test_splits_part_the_hash_space(fraction: float) -> None:
    low, cut = split_range("validation", fraction)
    assert (low, split_range("train", fraction)) == (0, (cut, 2**64))
    assert cut == pytest.approx(fraction * 2**64)


def test_shards_part_the_documents(tmp_path: Path) -> None:
    documents = [*hashed_documents(60), (0, "s/first", [1]), (TOP, "s/last", [2])]
    write_tokens(tmp_path, {"s-0-0": documents[::2], "s-1-0": documents[1::2], "s-2-0": []})
    parts = {("first", "s"): ["s-0-0", "s-1-0", "s-2-0"], ("first", "empty"): ["s-2-0"]}
    config = Pack(sequence_length=16, shard_size_bytes=200, validation_fraction=0.2)
    tree = Tree(str(tmp_path))
    plans = plan_shards(tree, parts, config, 2)
    assert {plan.snapshot for plan in plans} == {"first"}
    assert [plan.name for plan in plans if plan.source == "empty"] == [
        "first+empty+train-00000", "first+empty+validation-00000",
    ]  # fmt: skip
    validation = [plan for plan in plans if (plan.source, plan.split) == ("s", "validation")]
    train = [plan for plan in plans if (plan.source, plan.split) == ("s", "train")]
    assert len(train) > 4
    assert len(validation) > 1
    for split in (validation, train):
        assert [plan.number for plan in split] == list(range(len(split)))
        assert all(one.high == other.low for one, other in pairwise(split))
        tokens = sum(sum(lengths) for hashed, _, lengths in documents
                     if split[0].low <= hashed < split[-1].high)  # fmt: skip
        assert len(split) == -(-tokens * 2 // 200)
    assert (validation[0].low, train[-1].high) == (0, 2**64)
    assert validation[-1].high == train[0].low == int(0.2 * 2**64)
    found = [
        ids_in(tree, parts["first", "s"], plan.low, plan.high) for plan in [*validation, *train]
    ]
    assert [each for ids in found for each in ids] == [name for _, name, _ in sorted(documents)]


def test_a_split_without_a_document_has_one_empty_shard(tmp_path: Path) -> None:
    """A take-down may bring a document back into it; where no hash falls there is none."""
    write_tokens(tmp_path, {"s-0-0": [(TOP, "s/only", [3])]})
    tree, parts = Tree(str(tmp_path)), {("first", "s"): ["s-0-0"]}
    cut = int(0.005 * 2**64)
    plans = plan_shards(tree, parts, Pack(), 2)
    assert plans == [
        ShardPlan("first", "s", "train", 0, cut, 2**64),
        ShardPlan("first", "s", "validation", 0, 0, cut),
    ]
    assert plans[0].name == "first+s+train-00000"
    assert plans[0].path == "shards/first/s/train-00000.arrow"
    counts = [packed(tree, plan, Pack(), ["s-0-0"]).counts for plan in plans]
    assert [(each["rows"], each["tokens"]) for each in counts] == [(1, 3), (0, 0)]
    assert [Shard(tree.find(plan.path)).rows for plan in plans] == [1, 0]
    none = plan_shards(tree, parts, Pack(validation_fraction=0), 2)
    assert [(plan.split, plan.low) for plan in none] == [("train", 0)]


def test_there_are_no_more_shards_than_documents(tmp_path: Path) -> None:
    write_tokens(tmp_path, {"s-0-0": [(2**63 + n, f"s/{n}", [50]) for n in range(3)]})
    tree = Tree(str(tmp_path))
    config = Pack(shard_size_bytes=1, validation_fraction=0)
    plans = plan_shards(tree, {("first", "s"): ["s-0-0"]}, config, 2)
    assert len(plans) == 3
    eight = Pack(sequence_length=8)
    rows = [packed(tree, plan, eight, ["s-0-0"]).counts["rows"] for plan in plans]
    assert sorted(rows) == [0, 0, 26]  # 150 tokens and 2 separators by 6 a row, all in one range
    for plan in plans:
        assert Shard(f"{tmp_path}/{plan.path}").rows == rows[plan.number]


def test_parts_do_not_show_in_a_shard(tmp_path: Path) -> None:
    documents = hashed_documents(40)
    spreads = {
        "one": {"s-0-0": documents},
        "two": {"s-0-0": documents[:13], "s-1-0": [], "s-2-0": documents[13:]},
        "three": {"s-0-0": documents[20:], "s-1-0": documents[:20]},
    }
    plan = ShardPlan("first", "s", "train", 0, 2**60, 2**64)
    shards = []
    for name, parts in spreads.items():
        root = tmp_path / name
        write_tokens(root, parts)
        output = packed(Tree(str(root)), plan, Pack(sequence_length=16), parts)
        shards.append((root / plan.path).read_bytes())
        inside = [each for each in documents if each[0] >= 2**60]
        assert output.paths == (plan.path,)
        assert output.counts == {
            "snapshot": "first", "source": "s", "split": "train",
            "tokens": sum(sum(each[2]) for each in inside),
            "rows": Shard(f"{root}/{plan.path}").rows,
        }  # fmt: skip
    assert shards[0] == shards[1] == shards[2]


def test_documents_of_one_hash_lie_in_the_order_of_their_ids(tmp_path: Path) -> None:
    write_tokens(
        tmp_path, {"a-0-0": [(7, "s/bb", [1])], "a-1-0": [(7, "s/a", [2]), (3, "s/c", [3])]}
    )
    tree, parts = Tree(str(tmp_path)), ["a-0-0", "a-1-0"]
    assert ids_in(tree, parts, 0, 8) == ["s/c", "s/a", "s/bb"]
    ids, hashes, documents = read_documents(tree, [*map(tokens_path, parts)], 0, 8)
    assert ids.to_pylist() == ["s/c", "s/a", "s/bb"]
    assert hashes.tolist() == [3, 7, 7]
    assert documents.sentences.tolist() == [0, 3, 5, 6]
    assert documents.documents.tolist() == [0, 1, 2, 3]
    assert ids_in(tree, parts, 0, 7) == ["s/c"]


def test_a_large_vocabulary_is_packed_in_wider_ids(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(
        [{"id": "s/a", "hash": 5, "token_ids": [70_000, 65_536, 4], "sentence_starts": [0],
          "word_starts": [True, False, True]}],
        schema=tokens_schema(100_000),
    )  # fmt: skip
    write_arrow(f"{tmp_path}/tokens/p.arrow", table)
    for low, rows in ((0, [[0, 70_000, 65_536, 4, 2, 1, 1, 1]]), (6, [])):
        plan = ShardPlan("first", "s", "train", low, low, 2**64)
        packed(Tree(str(tmp_path)), plan, Pack(sequence_length=8), ["p"], 100_000)
        shard = Shard(f"{tmp_path}/{plan.path}")
        assert shard.schema.field("token_ids").type.value_type == pa.uint32()
        assert shard.token_ids(range(len(rows))).tolist() == rows
