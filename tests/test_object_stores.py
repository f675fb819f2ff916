"""A store and its inputs in buckets, over HTTP from a server that speaks S3 (moto, on loopback)."""

import json
import random
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request as Post
from urllib.request import urlopen

import pytest
import zstandard
from chain_helpers import KilledError, compare_snapshots, prepare, tables
from corpus_helpers import make_documents, random_text

from corpus import lease
from corpus.files import (
    RemoteError,
    checksum,
    create,
    exists,
    list_names,
    read_bytes,
    remove,
    remove_tree,
    write_bytes,
)
from corpus.lease import holding
from corpus.recipe import Recipe
from corpus.snapshots import Snapshot
from pipeline import fetch, gather, inputs
from pipeline.explain import explain, open_store
from pipeline.forget import Request, forget
from pipeline.inputs import find_inputs
from pipeline.proofs import audit
from pipeline.purge import purge
from pipeline.refresh import refresh

INSTALL = "wants the packages of the extra `dev`: s3fs, moto and flask-cors"
s3fs = pytest.importorskip("s3fs", reason=INSTALL)
for module in ("moto", "flask_cors"):
    pytest.importorskip(module, reason=INSTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of this file's own, which asks nobody who he is."""
    log = tmp_path_factory.mktemp("moto") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    try:
        while (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())) is None:
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield found[0]
    finally:
        process.kill()
        process.wait()


def authenticate_after(server: str, requests: float) -> None:
    """Let the server look at credentials, all of which are unknown to it, after some requests."""
    plain = {"Content-Type": "text/plain"}
    urlopen(Post(f"{server}/moto-api/reset-auth", str(requests).encode(), plain)).close()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket, reached as a user's environment says."""
    for name, value in (
        ("AWS_ENDPOINT_URL", server), ("AWS_ACCESS_KEY_ID", "testing"), ("AWS_MAX_ATTEMPTS", "1"),
        ("AWS_SECRET_ACCESS_KEY", "testing"), ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"b-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


def write_raw(root: str) -> None:
    """Write lines plain and packed, and more of them in a folder below."""
    lines = [json.dumps(document) + "\n" for document in make_documents(0, 60)]
    write_bytes(f"{root}/a/plain.jsonl", "".join(lines[:20]).encode())
    write_bytes(f"{root}/a/packed.jsonl.zst", zstandard.compress("".join(lines[20:50]).encode()))
    write_bytes(f"{root}/b/deep/more.jsonl", "".join(lines[50:]).encode())
    write_bytes(f"{root}/b/story.txt", random_text(random.Random(1), 100).encode())


def made(raw: str, store: str, label: str = "first", *more: str) -> Snapshot:
    """Refresh from a file, a directory and a glob."""
    paths = [f"{raw}/a/plain.jsonl", f"{raw}/b", f"{raw}/a/*.zst", *more]
    recipe: dict[str, Any] = {
        "store": store,
        "snapshot": label,
        "sources": [{"name": "s", "paths": paths}],
        "tokenizer": {"vocab_size": 280},
        "pack": {"sequence_length": 64, "shard_size_bytes": 9000, "validation_fraction": 0.2},
        "dedup": {"partitions": 1},
        "workers": 1,
    }
    return refresh(Recipe.model_validate(recipe)).snapshot


def find(path: str) -> list[str]:
    source = {"name": "s", "paths": [path]}
    recipe = {"store": "/nowhere", "snapshot": "one", "sources": [source]}
    return [each.name for each in find_inputs(Recipe.model_validate(recipe))[0]]


def kill_in(stage: str, raw: str, store: str) -> None:
    """End a refresh right before the first record of a stage is committed."""

    def create_or_die(path: str, data: bytes) -> bool:
        if f"/records/{stage}/" in path:
            raise KilledError
        return create(path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.jobs.create", create_or_die)
        with pytest.raises(KilledError):
            made(raw, store)


def test_a_store_in_a_bucket_is_what_it_is_on_a_disk(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in several stages, delivered to again, after a take-down, and audited."""
    prepare(monkeypatch)
    monkeypatch.setattr(gather, "LEAST_REMOTE", 1)
    monkeypatch.setattr(fetch, "LEAST_PAIRS", 1)
    here, there = str(tmp_path / "store"), f"{bucket}/deep/store"
    raw = {here: str(tmp_path / "raw"), there: f"{bucket}/raw"}
    for each in raw.values():
        write_raw(each)
    for stage in ("fetch", "resolve", "gather", "pack"):
        kill_in(stage, raw[there], there)
    both = made(raw[here], here), made(raw[there], there)
    assert {each.path.partition("://")[0] for each in both[1].inputs} == {"s3"}
    compare_snapshots((here, there), both)
    assert made(raw[there], there).fingerprint == both[0].fingerprint

    for each in raw.values():
        write_bytes(f"{each}/a/later.jsonl", read_bytes(f"{raw[here]}/a/plain.jsonl")[:3000])
    read: list[str] = []

    def noted(path: str) -> str:
        read.append(path)
        return checksum(path)

    monkeypatch.setattr(inputs, "checksum", noted)
    both = (
        made(raw[here], here, "second", f"{raw[here]}/a/later.jsonl"),
        made(raw[there], there, "second", f"{raw[there]}/a/later.jsonl"),
    )
    compare_snapshots((here, there), both)
    assert read == [f"{raw[here]}/a/later.jsonl", f"{raw[there]}/a/later.jsonl"]

    gone = tables(there, both[1], "duplicates")[0]["witness_id"]
    for store in (here, there):
        forget(store, "without", Request(ids=(gone,)))
        assert purge(store) == ["first", "second"]
    assert list(explain(open_store(there), gone)) == list(explain(open_store(here), gone))
    remains = open_store(here), open_store(there)
    compare_snapshots((here, there), (remains[0].snapshot, remains[1].snapshot))
    assert audit(remains[1]).problems == []


def test_a_file_is_created_once(bucket: str) -> None:
    path = f"{bucket}/deep/x"
    assert create(path, b"1")
    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(lambda n: create(path, b"%d" % n), range(8)))
    assert read_bytes(path) == b"1"
    write_bytes(path, b"2")
    assert read_bytes(path) == b"2"
    remove(path)
    remove(path)
    assert not exists(path)
    assert create(path, b"3")


def test_one_command_at_a_time_writes_a_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def second() -> None:
        with holding(bucket, "second"):
            raise AssertionError("two hold one lease")

    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    with holding(bucket, "first") as held:
        with pytest.raises(ValueError, match=f"{bucket} is held by first"):
            second()
        held.check()
        monkeypatch.setattr(lease, "_visible_processes", lambda: "another host")
        with pytest.raises(ValueError, match=f"{bucket} is held by first"):
            second()  # by the heartbeat alone
        remove_tree(f"{bucket}/lease")
        with pytest.raises(ValueError, match="was lost to an unknown process"):
            held.check()


def test_a_folder_made_by_hand_is_no_file(bucket: str) -> None:
    """An object of no bytes whose name ends with a slash, as the console of S3 makes it."""
    write_raw(f"{bucket}/raw")
    files = s3fs.S3FileSystem()
    for folder in ("raw", "raw/a", "raw/empty"):
        files.pipe_file(f"{bucket}/{folder}/", b"")
    assert (
        find(f"{bucket}/raw/a") == find(f"{bucket}/raw/a/*") == ["packed.jsonl.zst", "plain.jsonl"]
    )
    assert find(f"{bucket}/raw") == find(f"{bucket}/raw/**") == list_names(f"{bucket}/raw")
    assert len(find(f"{bucket}/raw")) == 4


@pytest.mark.parametrize("path", ["raw", "*.jsonl", "a.jsonl"])
def test_what_is_not_there_is_named(bucket: str, path: str) -> None:
    for missing in (f"{bucket}/{path}", f"s3://no-such-bucket/{path}"):
        with pytest.raises(
            ValueError, match=f"source s: there is no file at {re.escape(missing)}$"
        ):
            find(missing)


def test_no_bucket_is_made(bucket: str) -> None:
    for write in (create, write_bytes):
        with pytest.raises(
            RemoteError, match=r"^s3://no-such-bucket/x/y could not be written .*NoSuchBucket"
        ):
            write("s3://no-such-bucket/x/y", b"1")
    assert "no-such-bucket" not in s3fs.S3FileSystem().ls("")


def test_wrong_credentials_are_one_line(bucket: str, server: str) -> None:
    write_bytes(f"{bucket}/a.jsonl", b"{}")
    authenticate_after(server, 0)
    try:
        for read in (find, read_bytes, exists, list_names, remove_tree):
            with pytest.raises(
                RemoteError,
                match=rf"^{bucket}/a\.jsonl could not be read .* \((403|Invalid\w+)\).*",
            ):
                read(f"{bucket}/a.jsonl")
        for write in (create, write_bytes):
            with pytest.raises(RemoteError, match=f"^{bucket}/b could not be written .*InvalidAcc"):
                write(f"{bucket}/b", b"1")
        with pytest.raises(
            RemoteError, match=rf"^{bucket}/a\.jsonl could not be deleted .*Invalid"
        ):
            remove(f"{bucket}/a.jsonl")
    finally:
        authenticate_after(server, float("inf"))


def test_a_server_that_does_not_answer_is_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(RemoteError, match=f"^{bucket}/a could not be read .*Could not connect"):
        read_bytes(f"{bucket}/a")
    with pytest.raises(RemoteError, match=f"^{bucket}/a could not be written .*Could not connect"):
        create(f"{bucket}/a", b"")
