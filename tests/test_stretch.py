"""Of a file in a bucket what was asked for is read, as it is in a mapped one, and little else."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from corpus.files import join, read_range, writing
from corpus.membership import tokens_path
from corpus.recipe import Pack
from corpus.snapshots import Part, Tree
from pipeline import stretch
from pipeline.encode import tokens_schema
from pipeline.index import Corpus, Keys, KeySearch
from pipeline.keys import KEY_SCHEMA
from pipeline.pack import read_documents
from pipeline.parquet import write_table
from pipeline.plans import plan_shards
from pipeline.signatures import write_arrow
from pipeline.stretch import Stretched

TOP = 2**64
PARTS = ("a-0", "a-1", "a-2")


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each read of a remote Arrow file gave; none is read whole."""
    found: list[int] = []

    def counting(path: str, start: int, stop: int) -> bytes:
        found.append(stop - start)
        return read_range(path, start, stop)

    monkeypatch.setattr(stretch, "read_range", counting)
    monkeypatch.setattr(stretch, "read_bytes", lambda path: pytest.fail(f"{path} read whole"))
    return found


def table_of(rows: int) -> pa.Table:
    rng = random.Random(7)
    lists = [[rng.randrange(60_000) for _ in range(rng.randrange(9))] for _ in range(rows)]
    return pa.table(
        {
            "number": pa.array(range(rows), pa.uint64()),
            "word": [f"w{'é' * (n % 5)}" for n in range(rows)],
            "ids": pa.array(lists, pa.large_list(pa.uint16())),
            "bits": pa.array(
                [[n % 2 > 0 for n in each] for each in lists], pa.large_list(pa.bool_())
            ),
            "maybe": pa.array([n if n % 3 else None for n in range(rows)], pa.int32()),
            "digest": pa.array(
                [n.to_bytes(16, "big") if n % 5 else None for n in range(rows)], pa.binary(16)
            ),
        }
    )


@pytest.mark.parametrize("rows", [0, 1, 50, 9000])
def test_rows_of_a_remote_file_are_those_of_the_table(
    remote: str, sizes: list[int], rows: int
) -> None:
    path, table = join(remote, "x.arrow"), table_of(rows)
    write_arrow(path, table)
    for start, stop in ((0, rows), (rows // 3, rows // 2), (rows - min(rows, 7), rows), (0, 0)):
        file = Stretched(path)
        assert len(file.table) == rows
        file.need(table.column_names, start, stop)
        there = file.table.slice(start, stop - start)
        assert there.to_pydict() == table.slice(start, stop - start).to_pydict()
        if start < stop:
            file = Stretched(path)
            file.need_offsets("ids", start, stop)
            offsets = file.table["ids"].chunk(0).offsets.to_numpy()[start : stop + 1]
            assert (np.diff(offsets) == [len(each) for each in there["ids"].to_pylist()]).all()
    if rows > 1000:
        sizes.clear()
        Stretched(path).need(["number", "ids"], 5000, 5010)
        assert sum(sizes) < 2 * stretch._END_BYTES + 1000 < table.nbytes


def test_a_remote_file_of_several_batches_is_read_whole(remote: str, sizes: list[int]) -> None:
    path, table = join(remote, "x.arrow"), table_of(9000)
    with writing(path) as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=2000)
    assert Stretched(path).table.equals(table)
    assert max(sizes) > table.nbytes


def test_a_damaged_or_missing_remote_file_is_named(remote: str) -> None:
    path = join(remote, "x.arrow")
    write_arrow(path, table_of(9000))
    whole = read_range(path, 0, 10**9)
    for damaged in (b"", whole[:100], whole[:-100], b"x" * len(whole)):
        with writing(path) as stream:
            stream.write(damaged)
        with pytest.raises(ValueError, match=r"x\.arrow is damaged .*refresh again"):
            Stretched(path)
    with pytest.raises(ValueError, match=r"nothing\.arrow is damaged"):
        Stretched(join(remote, "nothing.arrow"))


def write_keys(root: str, skewed: bool) -> Corpus:
    """Write three parts of 20,000 keys, a tenth of them shared, and the duplicates of the first."""
    rng = np.random.default_rng(3)
    shared = rng.integers(0, TOP, 2000, np.uint64)
    for part in PARTS:
        keys = np.concatenate([shared, rng.integers(0, TOP, 18_000, np.uint64)])
        if skewed:
            keys[:9000] = 2**63 + 5
        keys.sort()
        columns = [keys, np.zeros(len(keys), np.uint8), np.arange(len(keys), dtype=np.uint32)]
        write_arrow(f"{root}/index/{part}.keys.arrow", pa.table(columns, schema=KEY_SCHEMA))
        rows = pa.table({"row": pa.array(range(0, 20_000, 5), pa.int64())})
        write_table(f"{root}/duplicates/{part}.parquet", rows)
    return Corpus(tuple(Part(name, "a", "first", 0) for name in PARTS), 0)


def same(one: Keys, other: Keys) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in Keys._fields)


@pytest.mark.parametrize("settled", [0, 2])
@pytest.mark.parametrize("skewed", [False, True])
def test_a_search_reads_its_own_keys_of_a_bucket(
    tmp_path: Path, remote: str, sizes: list[int], settled: int, skewed: bool
) -> None:
    """Read whole, each of n tasks would read and hold the index of the whole corpus."""
    write_keys(str(tmp_path), skewed)
    corpus = write_keys(remote, skewed)._replace(settled=settled)
    local = KeySearch(Tree(str(tmp_path)), corpus)
    index_bytes = len(PARTS) * 20_000 * 13
    overhead = len(PARTS) * (2 * stretch._END_BYTES + 8 * 6000)  # a read, at most
    for tasks in (1, 4, 8):
        for number in range(tasks):
            low, high = number * TOP // tasks, (number + 1) * TOP // tasks
            sizes.clear()
            search = KeySearch(Tree(remote), corpus, (low, high))
            assert list(search.rounds(low, high)) == [(low, high)]
            assert same(search.read(low, high), local.read(low, high))
            if not skewed:
                assert sum(sizes) < 2 * index_bytes / tasks + overhead
    every = KeySearch(Tree(remote), corpus)
    wanted = local.read(0, TOP).key[::100]
    assert same(every.having(wanted), local.having(wanted))
    rows = np.array([3, 500], np.int64)
    assert same(every.of_rows(0, rows), local.of_rows(0, rows))


def test_a_search_of_many_parts_keeps_few_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process of Linux may map 65,530 files, and a large corpus has more parts."""
    corpus = write_keys(str(tmp_path), skewed=False)
    expected = KeySearch(Tree(str(tmp_path)), corpus).read(0, TOP)
    monkeypatch.setattr("pipeline.index._MOST_OPEN", 2)
    search = KeySearch(Tree(str(tmp_path)), corpus)
    assert same(search.read(0, TOP), expected)
    with Path("/proc/self/maps").open() as maps:
        assert len({line.split()[-1] for line in maps if str(tmp_path) in line}) <= 2


def write_tokens(root: str, documents: int) -> None:
    rng = np.random.default_rng(5)
    for part in PARTS:
        rows = [
            {
                "id": f"a/{part}{n}", "hash": hashed, "token_ids": [n % 200 + 10] * 40,
                "sentence_starts": [0, 7], "word_starts": [True, False] * 20,
            }
            for n, hashed in enumerate(np.sort(rng.integers(0, TOP, documents, np.uint64)).tolist())
        ]  # fmt: skip
        write_arrow(
            f"{root}/tokens/{part}.arrow", pa.Table.from_pylist(rows, schema=tokens_schema(300))
        )


def test_a_shard_reads_its_own_tokens_of_a_bucket(
    tmp_path: Path, remote: str, sizes: list[int]
) -> None:
    """Read whole, every shard would read and hold all tokens of its source."""
    documents = 3000
    write_tokens(str(tmp_path), documents)
    write_tokens(remote, documents)
    config = Pack(sequence_length=16, shard_size_bytes=60_000, validation_fraction=0.1)
    here, there = Tree(str(tmp_path)), Tree(remote)
    parts = {("first", "a"): [*PARTS]}
    plans = plan_shards(there, parts, config, 2)
    ends = len(PARTS) * 2 * stretch._END_BYTES
    # Of a document its hash and where its tokens lie, each once, but nothing of its tokens.
    assert sum(sizes) < ends + len(PARTS) * documents * 16 + 100
    assert plans == plan_shards(here, parts, config, 2)
    assert len(plans) > 10
    paths = [tokens_path(part) for part in PARTS]
    for plan in plans:
        sizes.clear()
        ids, hashes, found = read_documents(there, paths, plan.low, plan.high)
        expected = read_documents(here, paths, plan.low, plan.high)
        assert (ids, hashes.tolist()) == (expected.ids, expected.hashes.tolist())
        assert all(np.array_equal(a, b) for a, b in zip(found, expected.documents, strict=True))
        # Of all documents the hash, of a shard's own some 6 bytes a token here.
        assert sum(sizes) < ends + len(PARTS) * documents * 8 + 6 * len(found.token_ids)
    with Path("/proc/self/maps").open() as maps:
        assert not [line for line in maps if str(tmp_path) in line]
