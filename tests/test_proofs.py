"""An audit passes on a sound store and finds every planted fault, however well it is signed over.

Each fault is planted twice over: the file is changed and then the manifest is signed again, so that
checksums, counts and digests agree and only the proof itself can fail.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_helpers import Built, run
from stage_helpers import shard_documents

from corpus.documents import DROP_SCHEMA, add_digests, digest_table, format_digest
from corpus.files import checksum
from corpus.snapshots import Snapshot, tokenizer_root
from corpus.tokenizer import EOS_ID, stored_tokenizer
from pipeline.audit_shards import check_shards
from pipeline.explain import Store, explain, open_store, show, show_row
from pipeline.jobs import HERE
from pipeline.proofs import audit, workers_for
from pipeline.signatures import write_arrow
from pipeline.stretch import open_arrow

pytestmark = pytest.mark.slow


@pytest.fixture
def store(built: Built, tmp_path: Path) -> Store:
    shutil.copytree(built.directory / "store", tmp_path / "store")
    return open_store(str(tmp_path / "store"))


def sign_again(store: Store) -> Store:
    """Make the manifest agree with the files, as somebody who hides a fault would."""
    manifest = Path(store.tree.own("snapshot.json"))
    fields = orjson.loads(manifest.read_bytes())
    for entry in fields["files"] + fields["shards"]:
        path = Path(store.tree.find(entry["path"]))
        entry["size_bytes"], entry["checksum"] = path.stat().st_size, checksum(str(path))
    drops = [pq.read_table(path) for path in sorted(Path(store.tree.root).glob("dropped/*"))]
    digests = [format_digest(digest_table(table, DROP_SCHEMA.names)) for table in drops]
    fields["dropped_digest"] = add_digests(digests)
    snapshot = Snapshot.model_validate(fields)
    fields["fingerprint"] = snapshot.compute_fingerprint()
    manifest.write_bytes(orjson.dumps(fields))
    return open_store(store.root)


def change_rows(store: Store, pattern: str, change: Callable[[list[dict[str, Any]]], bool]) -> None:
    """Change the rows of the first file that `change` says it changed."""
    for path in sorted(Path(store.tree.root).glob(pattern)):
        table = pq.read_table(path)
        rows = table.to_pylist()
        if change(rows):
            pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
            return
    pytest.fail(f"nothing to change in {pattern}")


def problems_of(store: Store) -> str:
    return "\n".join(audit(store).problems)


def test_sound_store_passes(built: Built) -> None:
    done = run("pipeline", "audit", str(built.directory / "store"))
    assert (done.returncode, done.stdout.count("every proof holds")) == (0, 1), done.stdout
    assert "not checked" not in done.stdout


def test_a_small_store_is_audited_without_ray(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(built.directory / "store"))
    assert workers_for(store.snapshot) == 1
    monkeypatch.setattr("pipeline.proofs._SMALL_BYTES", 1)
    assert workers_for(store.snapshot) is None


def test_on_ray_a_sound_store_passes_and_a_fault_is_found(store: Store) -> None:
    """In tasks of other processes, which are sent all that they need."""
    done = run("pipeline", "audit", store.root, "--workers", "2")
    assert (done.returncode, done.stdout.count("every proof holds")) == (0, 1), done.stderr

    def clear(_: npt.NDArray[Any], __: npt.NDArray[Any], starts: npt.NDArray[Any]) -> None:
        starts[0] = False

    change_shard(store, clear)
    done = run("pipeline", "audit", sign_again(store).root, "--workers", "2")
    assert done.returncode == 1
    assert "has other tokens or word starts than its text" in done.stdout


def test_flipped_byte_in_a_shard(store: Store) -> None:
    entry = store.snapshot.shards[1]
    path = Path(store.tree.find(entry.path))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = run("pipeline", "audit", store.root)
    assert done.returncode == 1
    assert f"wrong: {entry.path}: has checksum" in done.stdout
    # Signed over, the text still tells.
    assert "decodes to another text" in problems_of(sign_again(store))


def test_truncated_shard_and_missing_and_stray_files(store: Store) -> None:
    root = Path(store.tree.root)
    shard = root / store.snapshot.shards[0].path
    shard.write_bytes(shard.read_bytes()[:-100])
    (root / store.snapshot.shards[1].path).unlink()
    (root / "clean" / "stray.parquet").write_bytes(b"x")
    found = problems_of(store)
    assert f"{store.snapshot.shards[0].path}: has " in found
    assert f"{store.snapshot.shards[1].path}: is missing" in found
    assert "clean/stray.parquet: is not in the manifest" in found


@pytest.mark.parametrize("kind", ["", ".dedup"])
def test_missing_drop_row(store: Store, kind: str) -> None:
    def lose_one(rows: list[dict[str, Any]]) -> bool:
        return bool(rows) and rows.pop() is not None

    change_rows(store, f"dropped/*00000{kind}.parquet", lose_one)
    found = problems_of(sign_again(store))
    assert "dropped rows by rule are" in found
    assert ("gives other dropped rows" if not kind else "not the rows of its duplicates") in found


def test_witness_that_did_not_survive(store: Store) -> None:
    gone = [
        row
        for path in sorted(Path(store.tree.root).glob("duplicates/*"))
        for row in pq.read_table(path).to_pylist()
    ]

    def point_at_a_dropped_one(rows: list[dict[str, Any]]) -> bool:
        for row in rows:
            for name in ("id", "snapshot", "file", "position"):
                row[f"witness_{name}"] = gone[-1][name]
            return True
        return False

    change_rows(store, "duplicates/*", point_at_a_dropped_one)
    assert "its witness did not survive" in problems_of(sign_again(store))


def test_wrong_similarity(store: Store) -> None:
    def raise_it(rows: list[dict[str, Any]]) -> bool:
        for row in rows:
            if row.get("method", row.get("rule")) == "minhash":
                name = "similarity" if "similarity" in row else "value"
                row[name] = np.nextafter(row[name], 2)
                return True
        return False

    change_rows(store, "duplicates/*", raise_it)
    change_rows(store, "dropped/*.dedup.parquet", raise_it)
    found = problems_of(sign_again(store))
    assert "their similarity is" in found
    assert "not the rows" not in found


def test_wrong_rule_value(store: Store) -> None:
    def raise_it(rows: list[dict[str, Any]]) -> bool:
        for row in rows:
            if row["rule"] == "gopher_min_words":
                row["value"] += 1
                return True
        return False

    change_rows(store, "dropped/*-00000.parquet", raise_it)
    assert "gives other dropped rows than stored" in problems_of(sign_again(store))


def change_shard(
    store: Store, change: Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]], None]
) -> None:
    """Change ids, lengths and word starts of the first rows of the first shard in place."""
    path = Path(store.tree.find(store.snapshot.shards[0].path))
    with pa.ipc.open_stream(pa.BufferReader(path.read_bytes())) as reader:
        schema, batches = reader.schema, list(reader)
    first, columns = batches[0], list(batches[0].columns)
    names = ("token_ids", "length", "word_starts")
    arrays = [
        first.column(name).flatten().to_numpy(zero_copy_only=False).copy()
        if name != "length"
        else first.column(name).to_numpy().copy()
        for name in names
    ]
    change(arrays[0].reshape(first.num_rows, -1), arrays[1], arrays[2].reshape(first.num_rows, -1))
    for name, array in zip(names, arrays, strict=True):
        at, values = schema.get_field_index(name), pa.array(array)
        lists = name != "length"
        columns[at] = (
            pa.FixedSizeListArray.from_arrays(values, type=schema.field(at).type)
            if lists
            else values
        )
    with pa.ipc.new_stream(path, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        for batch in batches[1:]:
            writer.write_batch(batch)


def test_lost_token(store: Store) -> None:
    """A token is taken out of the middle of a row and the row closed up."""

    def lose(ids: npt.NDArray[Any], lengths: npt.NDArray[Any], _: npt.NDArray[Any]) -> None:
        length = lengths[0]
        ids[0, 5 : length - 1] = ids[0, 6:length]
        ids[0, length - 1], lengths[0] = 1, length - 1
        assert ids[0, length - 2] == EOS_ID

    change_shard(store, lose)
    found = problems_of(sign_again(store))
    assert "decodes to another text than was kept" in found
    assert "tokens, the manifest says" in found


def test_other_tokens_of_the_same_text(store: Store) -> None:
    """Two tokens spell the same bytes as two others: the text decodes, and is not what it was."""
    pieces = stored_tokenizer(
        tokenizer_root(store.root, store.snapshot.tokenizer), store.snapshot.tokenizer
    ).token_bytes()
    by_bytes = {piece: token for token, piece in enumerate(pieces) if token > EOS_ID + 1}

    def respell(ids: npt.NDArray[Any], lengths: npt.NDArray[Any], _: npt.NDArray[Any]) -> None:
        for place in range(1, lengths[0] - 2):
            left, right = ids[0, place : place + 2].tolist()
            both = pieces[left] + pieces[right]
            for cut in range(1, len(both)):
                pair = by_bytes.get(both[:cut]), by_bytes.get(both[cut:])
                if min(left, right) > EOS_ID + 1 and None not in pair and pair != (left, right):
                    ids[0, place : place + 2] = pair
                    return
        pytest.fail("no pair of tokens has another spelling")

    change_shard(store, respell)
    found = problems_of(sign_again(store)).splitlines()
    assert len(found) == 1
    assert "has other tokens or word starts than its text" in found[0]


def test_other_word_starts(store: Store) -> None:
    def clear(_: npt.NDArray[Any], __: npt.NDArray[Any], starts: npt.NDArray[Any]) -> None:
        starts[0] = False

    change_shard(store, clear)
    assert "has other tokens or word starts than its text" in problems_of(sign_again(store))


def test_other_sentences_in_a_tokens_file(store: Store) -> None:
    paths = sorted(Path(store.tree.root).glob("tokens/*.arrow"))
    path = max(paths, key=lambda each: each.stat().st_size)
    table = open_arrow(str(path))
    starts = [[0] for _ in range(len(table))]
    assert table["sentence_starts"].to_pylist() != starts
    at = table.schema.get_field_index("sentence_starts")
    column = pa.array(starts, table.schema.field(at).type)
    write_arrow(str(path), table.set_column(at, table.schema.field(at), column))
    found = audit(sign_again(store))
    assert found.problems == [
        f"tokens/{path.name}: its documents encoded again give other tokens, sentences or words"
    ]
    source = path.name.partition("-")[0]
    assert found.not_checked == [f"shards of first/{source}, as a tokens file is wrong"]


def test_documents_in_no_shard(store: Store) -> None:
    """Without a split's shards all that belongs there is named; with another's too many are."""
    validation = [each for each in store.snapshot.shards if each.split == "validation"]
    train = [each for each in store.snapshot.shards if each.split == "train"]
    assert validation and train
    lost = shard_documents(store, validation[0])
    fewer = store.snapshot.model_copy(update={"shards": (*train, *validation[1:])})
    found = list(check_shards(store._replace(snapshot=fewer), HERE, []))
    assert found[:-1] == [f"{identity}: was kept and is in no shard" for identity in lost] != []
    assert "tokens, the manifest says" in found[-1]


def test_a_shard_of_a_source_that_brought_nothing(store: Store) -> None:
    shards = [*store.snapshot.shards]
    shards.append(shards[0].model_copy(update={"source": "nobody"}))
    more = store.snapshot.model_copy(update={"shards": tuple(shards)})
    found = "\n".join(check_shards(store._replace(snapshot=more), HERE, []))
    assert "documents, expected 0" in found


def test_manifest_that_lies_about_itself(store: Store) -> None:
    path = Path(store.tree.own("snapshot.json"))
    path.write_bytes(path.read_bytes().replace(b'"label": "first"', b'"label": "other"'))
    with pytest.raises(ValueError, match=r"is damaged: its content gives fingerprint"):
        open_store(store.root)


def test_explain_shows_a_near_duplicate_with_its_witness(built: Built) -> None:
    store = open_store(str(built.directory / "store"))
    row = next(
        row
        for path in sorted(Path(store.tree.root).glob("duplicates/*"))
        for row in pq.read_table(path).to_pylist()
        if row["method"] == "minhash" and row["similarity"] < 1
    )
    done = run("pipeline", "explain", store.root, row["id"])
    assert done.returncode == 0, done.stderr
    assert "dropped in dedup by minhash: value 0." in done.stdout
    assert f"in favour of {row['witness_id']}" in done.stdout
    assert done.stdout.count("kept: ") >= 1


def test_explain_tells_where_a_kept_document_lies(built: Built) -> None:
    store = open_store(str(built.directory / "store"))
    place = f"{store.snapshot.shards[0].path.removeprefix('shards/').removesuffix('.arrow')}:3"
    (_, line, *_) = list(show_row(store, place))
    identity, text = line.strip().split(": ", 1)
    story = list(explain(store, identity))
    packed = next(line for line in story if "packed in" in line)
    assert store.snapshot.shards[0].path in packed
    first, last = (int(word) for word in packed.split("rows ")[1].split(" to "))
    assert first <= 3 <= last
    assert len(text) > 10


def test_explain_unknown_document(built: Built) -> None:
    done = run("pipeline", "explain", str(built.directory / "store"), "books/none")
    assert (done.returncode, done.stderr.strip().split("\n")[-1][:7]) == (2, "error: ")
    assert "knows no document books/none" in done.stderr


def test_show_lists_sources_and_rows(built: Built) -> None:
    store = open_store(str(built.directory / "store"))
    text = "\n".join(show(store))
    assert store.snapshot.fingerprint in text
    assert all(shard.path in text for shard in store.snapshot.shards)
    with pytest.raises(ValueError, match="is no row"):
        list(show_row(store, "first/books/train-99999:0"))
    with pytest.raises(ValueError, match="there is no row 99999"):
        list(show_row(store, "first/books/train-00000:99999"))
