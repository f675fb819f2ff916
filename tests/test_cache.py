import fcntl
import hashlib
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
from cache_worker import fetch_all
from fsspec.implementations.memory import MemoryFileSystem
from pretrain_helpers import make_recipe, write_snapshot

from corpus.snapshots import ShardEntry, Snapshot
from corpus.training import Cache
from pretrain import cache as cache_module
from pretrain.batches import Stream, hash_batches, open_stream
from pretrain.cache import (
    ATTEMPTS,
    Copy,
    NoRoomError,
    ShardCache,
    ShardUnreadableError,
    Wanted,
    most_open_files,
    retried,
)
from pretrain.config import data_plan
from pretrain.dataset import Shares, verify_shards
from pretrain.explain import explain_step
from pretrain.launch import run_training

SHARDS = (*(("books", "train", 20 + at) for at in range(6)), ("books", "validation", 4))


class Unsteady(MemoryFileSystem):  # type: ignore[misc]
    """A memory file system whose next reads fail, or bring other bytes."""

    protocol = "unsteady"
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    failures = 0
    damage = False
    opened: list[str] = []  # noqa: RUF012

    def _open(self, path: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if "shards/" in path:
            Unsteady.opened.append(path)
            if Unsteady.failures:
                Unsteady.failures -= 1
                raise ConnectionError("reset by peer")
        found = super()._open(path, *args, **kwargs)
        if Unsteady.damage and "shards/" in path:
            data = bytearray(found.getvalue())
            data[len(data) // 2] ^= 1
            with fsspec.filesystem("memory").open("/damaged", "wb") as stream:
                stream.write(data)
            return fsspec.filesystem("memory").open("/damaged", "rb")
        return found


fsspec.register_implementation("unsteady", Unsteady, clobber=True)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cache_module, "_FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(cache_module, "_ROOM_PATIENCE_SECONDS", 0.0)
    yield
    Unsteady.store.clear()
    Unsteady.failures, Unsteady.damage = 0, False
    Unsteady.opened.clear()


def make_store(tmp_path: Path, url: str = "unsteady://store") -> Snapshot:
    """Write a snapshot locally and copy it to a remote store."""
    local = tmp_path / "local"
    snapshot = write_snapshot(local, shards=SHARDS)
    fs, root = fsspec.core.url_to_fs(url)
    fs.put(str(local) + "/", root, recursive=True)
    Unsteady.opened.clear()
    return snapshot


def remote_stream(tmp_path: Path, snapshot: Snapshot, **changes: Any) -> Stream:  # noqa: ANN401
    config = {"directory": str(tmp_path / "cache"), "max_bytes": 10**9}
    settings: dict[str, Any] = {"batch_sequences": 10, "cache": config} | changes
    recipe = make_recipe(tmp_path, tmp_path, **settings)
    plan = data_plan(recipe.pretrain, snapshot)
    return open_stream("unsteady://store", snapshot, plan, recipe.pretrain)


def hashes(stream: Stream, steps: range) -> list[int]:
    return [hash_batches(stream.train_batches(Shares(10, 1, 4), step, 0)) for step in steps]


def wanted(snapshot: Snapshot, at: int) -> Wanted:
    entry = snapshot.shards[at]
    return Wanted(snapshot.tree("unsteady://store").find(entry.path), entry)


def entry_of(name: str, data: bytes) -> ShardEntry:
    return ShardEntry(
        path=name, home="one", snapshot="one", source="books", split="train", rows=1, tokens=1,
        size_bytes=len(data), checksum=hashlib.sha256(data).hexdigest(),
    )  # fmt: skip


def small(tmp_path: Path, max_bytes: int) -> tuple[ShardCache, list[Wanted]]:
    """A cache and five remote files of 100 bytes."""
    found = []
    for at in range(5):
        data, url = bytes([at]) * 100, f"unsteady://shards/{at}"
        with fsspec.open(url, "wb") as stream:
            stream.write(data)
        found.append(Wanted(url, entry_of(str(at), data)))
    Unsteady.opened.clear()
    config = Cache(directory=str(tmp_path / "cache"), max_bytes=max_bytes)
    return ShardCache(config), found


def content(copy: Copy) -> bytes:
    return Path(copy.path).read_bytes()


def names(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache").glob("*.arrow*")}


@pytest.mark.parametrize("windows", [None, 1, 2])
def test_batches_are_those_of_a_local_store(tmp_path: Path, windows: int | None) -> None:
    snapshot = make_store(tmp_path)
    bound = sum(shard.size_bytes for shard in snapshot.shards)
    cache = {"directory": str(tmp_path / "cache"), "max_bytes": bound}
    remote = remote_stream(tmp_path, snapshot, cache=cache, shuffle_shards=windows)
    local = open_stream(str(tmp_path / "local"), snapshot, remote.plan)
    assert hashes(remote, range(30)) == hashes(local, range(30))
    assert hashes(remote, range(3)) == hashes(local, range(3))  # back at once
    validation = [list(each.validation_batches(Shares(4, 1, 2), 0)) for each in (remote, local)]
    assert hash_batches(validation[0]) == hash_batches(validation[1])
    remote.close()


def test_a_step_in_the_middle_needs_its_own_shards_only(tmp_path: Path) -> None:
    snapshot = make_store(tmp_path)
    stream = remote_stream(tmp_path, snapshot, shuffle_shards=1)
    assert Unsteady.opened == []
    hashes(stream, range(700, 701))
    stream.close()
    # One window or two, and what was fetched ahead: not the six shards.
    assert 1 <= len(set(Unsteady.opened)) <= 3


def sizes_below(directory: Path) -> Iterator[int]:
    """Give the sizes of copies; one that the cache deletes meanwhile counts no more."""
    for path in directory.glob("*.arrow*"):
        with suppress(FileNotFoundError):
            yield path.stat().st_size


def test_the_bound_holds_while_all_shards_pass_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is being fetched in the background has its room, and then is free to go.
    monkeypatch.setattr(cache_module, "_ROOM_PATIENCE_SECONDS", 60.0)
    snapshot = make_store(tmp_path)
    sizes = sorted((each.size_bytes for each in snapshot.shards), reverse=True)
    bound = sizes[0] + sizes[1] + snapshot.shards[-1].size_bytes
    cache = {"directory": str(tmp_path / "cache"), "max_bytes": bound}
    stream = remote_stream(tmp_path, snapshot, cache=cache, shuffle_shards=1)
    for step in range(40):
        hashes(stream, range(step, step + 1))
        assert sum(sizes_below(tmp_path / "cache")) <= bound
    stream.close()
    assert len(Unsteady.opened) < 60  # some 3 passes: about one download a shard and pass


def test_a_cache_that_is_too_small_is_refused(tmp_path: Path) -> None:
    snapshot = make_store(tmp_path)
    cache = {"directory": str(tmp_path / "cache"), "max_bytes": 9000}
    message = r"cache.max_bytes is 9,000, but the shards .* take [\d,]+: .* set pretrain.shuffle"
    with pytest.raises(ValueError, match=message):
        remote_stream(tmp_path, snapshot, cache=cache)


@pytest.fixture
def limit_of_files() -> Iterator[int]:
    """Let this process open few files more than it has open, until it raises the limit itself."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = len(list(Path("/proc/self/fd").iterdir())) + 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_shards_than_files_that_a_process_may_open_at_first(
    tmp_path: Path, limit_of_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = limit_of_files + 1
    rows = (*(shards * [("books", "train", 1)]), *SHARDS[-1:])
    monkeypatch.setattr(f"{__name__}.SHARDS", rows)
    remote = remote_stream(tmp_path, make_store(tmp_path), batch_sequences=shards)
    (batch,) = remote.train_batches(Shares(shards, 1, shards), 0, 0)
    assert sorted(batch.rows.tolist()) == list(range(shards))
    remote.close()


def test_a_limit_of_files_that_only_seems_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(256, resource.RLIM_INFINITY)]

    def set_limit(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] == resource.RLIM_INFINITY:
            raise ValueError("current limit exceeds maximum limit")
        limits.append(wanted)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    assert most_open_files() == 10_240


def test_more_shards_than_a_process_may_ever_open_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.batches.most_open_files", lambda: 100)
    message = "may open 100 files, and each of the 6 shards .* raise the limit .*shuffle_shards"
    with pytest.raises(ValueError, match=message):
        remote_stream(tmp_path, make_store(tmp_path))


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_batch_over_many_windows_needs_no_more_room_than_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    monkeypatch.setattr(cache_module, "_ROOM_PATIENCE_SECONDS", 60.0)
    snapshot = make_store(tmp_path)
    sizes = sorted((each.size_bytes for each in snapshot.shards), reverse=True)
    bound = sizes[0] + sizes[1] + snapshot.shards[-1].size_bytes
    cache = {"directory": str(tmp_path / "cache"), "max_bytes": bound}
    settings: dict[str, Any] = {"shuffle_shards": 1, "batch_sequences": 90, "masking": "span"}
    remote = remote_stream(tmp_path, snapshot, cache=cache, **settings)
    local = open_stream(str(tmp_path / "local"), snapshot, remote.plan)
    shares = Shares(90, ranks, 90)
    for step in range(4):
        for rank in range(ranks):
            found, expected = (
                hash_batches(each.train_batches(shares, step, rank)) for each in (remote, local)
            )
            assert found == expected
            assert sum(sizes_below(tmp_path / "cache")) <= bound
    remote.close()
    # 360 rows are three passes over the shards and a stretch; each is fetched once a pass, or again
    # where the next batch begins.
    assert len(Unsteady.opened) <= 3 * 6 * ranks


def test_the_refusal_asks_for_no_fewer_shards_than_one(tmp_path: Path) -> None:
    snapshot = make_store(tmp_path)
    cache = {"directory": str(tmp_path / "cache"), "max_bytes": 9000}
    with pytest.raises(ValueError, match=r"of validation take [\d,]+: raise it$"):
        remote_stream(tmp_path, snapshot, cache=cache, shuffle_shards=1)


def test_room_that_others_take_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, files = small(tmp_path, 100)
    held = cache.fetch(files[0])
    monkeypatch.setattr(cache_module, "_ROOM_PATIENCE_SECONDS", 60.0)
    # The pause is where another rank takes its next step.
    monkeypatch.setattr("time.sleep", lambda _: held.close())
    assert content(cache.fetch(files[1])) == bytes([1]) * 100


def test_a_second_run_downloads_nothing(tmp_path: Path) -> None:
    snapshot = make_store(tmp_path)
    first = remote_stream(tmp_path, snapshot)
    expected = hashes(first, range(14))
    first.close()
    Unsteady.opened.clear()
    second = remote_stream(tmp_path, snapshot)
    assert hashes(second, range(14)) == expected
    second.close()
    assert Unsteady.opened == []


def test_a_remote_store_without_a_cache_is_read_into_memory(tmp_path: Path) -> None:
    snapshot = make_store(tmp_path)
    Unsteady.failures = 2
    remote = remote_stream(tmp_path, snapshot, cache=None)
    local = open_stream(str(tmp_path / "local"), snapshot, remote.plan)
    assert hashes(remote, range(3)) == hashes(local, range(3))


def test_to_explain_a_step_holds_no_remote_shard_but_of_the_rows_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_store(tmp_path)
    run_training(make_recipe(tmp_path / "local", tmp_path / "run", batch_sequences=60, max_steps=2))
    recipe = tmp_path / "run" / "recipe.json"
    recipe.write_text(recipe.read_text().replace(str(tmp_path / "local"), "unsteady://store"))
    made: list[Stream] = []

    def spy(*arguments: Any) -> Stream:  # noqa: ANN401
        made.append(open_stream(*arguments))
        return made[-1]

    monkeypatch.setattr("pretrain.explain.open_stream", spy)
    assert "(what the ranks trained on)" in explain_step(str(tmp_path / "run"), 0, rows=0)
    assert made[0].train._opened == {}


def test_verifying_a_remote_store_tries_again_and_names_the_shard(tmp_path: Path) -> None:
    snapshot = make_store(tmp_path)
    Unsteady.failures = ATTEMPTS - 1
    verify_shards("unsteady://store", snapshot, 0, 1)
    Unsteady.failures = 1000
    message = rf"books/train-00000.arrow could not be read in {ATTEMPTS} attempts: reset by peer"
    with pytest.raises(ShardUnreadableError, match=message):
        verify_shards("unsteady://store", snapshot, 0, 1)
    Unsteady.failures, Unsteady.damage = 0, True
    with pytest.raises(ValueError, match=r"train-00000\.arrow has checksum .*, its manifest says"):
        verify_shards("unsteady://store", snapshot, 0, 1)


def test_failing_reads_are_tried_again(tmp_path: Path) -> None:
    cache, (first, *_) = small(tmp_path, 1000)
    Unsteady.failures = ATTEMPTS - 1
    copy = cache.fetch(first)
    assert content(copy) == bytes(100)
    assert len(Unsteady.opened) == ATTEMPTS


def test_a_store_that_stays_away_is_an_error_that_names_the_shard(tmp_path: Path) -> None:
    cache, (first, *_) = small(tmp_path, 1000)
    Unsteady.failures = 1000
    message = f"shard unsteady://shards/0 could not be read in {ATTEMPTS} attempts: reset by peer"
    with pytest.raises(ShardUnreadableError, match=message):
        cache.fetch(first)
    assert names(tmp_path) == set()
    Unsteady.failures = 0
    assert content(cache.fetch(first)) == bytes(100)


def test_a_download_that_comes_damaged_is_never_used(tmp_path: Path) -> None:
    cache, (first, *_) = small(tmp_path, 1000)
    Unsteady.damage = True
    with pytest.raises(ShardUnreadableError, match=r"shards/0 could .* its checksum is .*, its"):
        cache.fetch(first)
    assert names(tmp_path) == set()


def test_a_missing_shard_is_named_at_once(tmp_path: Path) -> None:
    cache, (first, *_) = small(tmp_path, 1000)
    gone = first._replace(url="unsteady://shards/9")
    with pytest.raises(ValueError, match="shard unsteady://shards/9 is missing"):
        cache.fetch(gone)
    assert len(Unsteady.opened) == 1


def test_a_store_that_only_does_not_answer_has_not_lost_the_shard() -> None:
    """A web server out of order: fsspec tells every answer but 200 as a missing file."""
    answers: list[BaseException | None] = [OSError(), None]

    class Refused(Exception):
        status = 503

    def read() -> str:
        error = answers.pop(0)
        if error is None:
            return "read"
        raise FileNotFoundError("gone") from Refused()

    assert retried("unsteady://shards/7", read) == "read"


def test_a_shard_that_is_there_after_all_is_read_again(tmp_path: Path) -> None:
    _, (first, *_) = small(tmp_path, 1000)
    answers = [FileNotFoundError("no such key"), TimeoutError(), RuntimeError("client: closed")]

    def read() -> str:
        if answers:
            raise answers.pop(0)
        return "read"

    assert retried(first.url, read) == "read"
    assert answers == []


def test_errors_of_any_client_are_told_with_the_shard() -> None:
    def read() -> None:
        raise RuntimeError  # without a word

    with pytest.raises(OSError, match="shard a could not be read in 5 attempts: RuntimeError"):
        retried("a", read)


def test_what_was_needed_longest_ago_goes_first(tmp_path: Path) -> None:
    cache, files = small(tmp_path, 300)
    for each in (*files[:3], files[0]):
        cache.fetch(each).close()
    cache.fetch(files[3]).close()
    assert names(tmp_path) == {files[at].name for at in (0, 2, 3)}


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    cache, files = small(tmp_path, 200)
    held: list[Copy] = [cache.fetch(files[0])]
    for each in files[1:]:
        cache.fetch(each).close()
    assert files[0].name in names(tmp_path)
    held.append(cache.fetch(files[1]))
    message = r"may hold 200 bytes, shards in use, .*, take 200 and the next one 100: raise pretr"
    with pytest.raises(NoRoomError, match=message):
        cache.fetch(files[2])
    held[0].close()
    cache.fetch(files[2])


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    cache, files = small(tmp_path, 200)
    (tmp_path / "cache" / f"{files[1].name}.part").write_bytes(b"half")
    (tmp_path / "cache" / f"{files[0].name}.part").write_bytes(b"hal")
    copies = [cache.fetch(files[0]), cache.fetch(files[2])]
    assert [content(copy)[:1] for copy in copies] == [b"\0", b"\2"]
    assert names(tmp_path) == {files[0].name, files[2].name}


def test_what_a_failed_download_leaves_goes_while_nobody_looks_for_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, files = small(tmp_path, 200)
    part = tmp_path / "cache" / f"{files[0].name}.part"
    looking, has_begun = (tmp_path / "cache" / "lock").open("a"), threading.Event()

    def fail(*_: object) -> None:
        fcntl.flock(looking, fcntl.LOCK_EX)  # another process looks
        has_begun.set()
        raise ShardUnreadableError("no answer")

    monkeypatch.setattr(cache_module, "retried", fail)
    cache.prefetch(files[:1])
    assert has_begun.wait(30)
    time.sleep(0.1)
    assert part.exists(), "the other has it in its listing"
    looking.close()
    cache.close()
    assert not part.exists()


def damage(path: str) -> None:
    """Flip a bit of a file where it lies, as a disk does."""
    with Path(path).open("r+b") as stream:
        first = stream.read(1)[0]
        stream.seek(0)
        stream.write(bytes([first ^ 1]))


def test_a_copy_that_was_damaged_on_disk_is_downloaded_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, files = small(tmp_path, 1000)
    held = first.fetch(files[2])
    damage(held.path)
    second = ShardCache(Cache(directory=str(tmp_path / "cache"), max_bytes=1000))
    assert content(second.fetch(files[2])) == bytes([2]) * 100
    assert len(Unsteady.opened) == 2
    (message,) = caplog.messages
    assert message.startswith(f"{held.path}, the copy of shard 2, has checksum ")
    # The first process still reads what it holds; then it has the new one.
    assert os.pread(held.handle, 100, 0) == bytes([3]) + bytes([2]) * 99
    held.close()
    assert content(first.fetch(files[2])) == bytes([2]) * 100
    assert len(Unsteady.opened) == 2


def test_a_damaged_copy_is_replaced_ahead_of_its_use(tmp_path: Path) -> None:
    first, files = small(tmp_path, 1000)
    copies = [first.fetch(each) for each in files[:2]]
    damage(copies[0].path)
    second = ShardCache(Cache(directory=str(tmp_path / "cache"), max_bytes=1000))
    second.prefetch(files[:2])
    second.close()
    assert [content(copy) for copy in copies] == [bytes([at]) * 100 for at in range(2)]
    assert len(Unsteady.opened) == 3


def test_of_two_processes_that_find_a_damaged_copy_one_replaces_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, (wanted, *_) = small(tmp_path, 1000)
    copy = first.fetch(wanted)
    damage(copy.path)
    copy.close()
    config = Cache(directory=str(tmp_path / "cache"), max_bytes=1000)
    second, third = ShardCache(config), ShardCache(config)

    def digest_late(*given: Any) -> Any:  # noqa: ANN401
        found = file_digest(*given)
        monkeypatch.undo()
        third.fetch(wanted).close()
        return found

    file_digest = hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", digest_late)
    assert content(second.fetch(wanted)) == bytes(100)
    assert len(Unsteady.opened) == 2


def test_a_copy_is_compared_once_by_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, files = small(tmp_path, 1000)
    file_digest, compared = hashlib.file_digest, list[str]()

    def count(stream: Any, name: str) -> Any:  # noqa: ANN401
        compared.append(name)
        return file_digest(stream, name)

    monkeypatch.setattr("hashlib.file_digest", count)
    for _ in range(3):
        first.fetch(files[0]).close()
    assert compared == []  # its download was
    second = ShardCache(Cache(directory=str(tmp_path / "cache"), max_bytes=1000))
    for _ in range(3):
        second.fetch(files[0]).close()
        second.prefetch(files[:1])
    second.close()
    assert len(compared) == 1


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    cache, files = small(tmp_path, 100)
    name, checksum = files[0].name, files[0].entry.checksum
    others = {
        "data-00000-of-00002.arrow", "mine.arrow", "mine.arrow.part", f"{name}.bak", f"my-{name}",
        name.replace(checksum, checksum.upper()), f"{checksum}.arrow",
    }  # fmt: skip
    for other in others:
        (tmp_path / "cache" / other).write_bytes(bytes(1000))
    for each in files:
        cache.fetch(each).close()
    assert names(tmp_path) == {*others, files[-1].name}


def test_prefetched_shards_are_there_when_asked_for(tmp_path: Path) -> None:
    cache, files = small(tmp_path, 1000)
    Unsteady.failures = 1
    cache.prefetch(files[:3])
    copies = [cache.fetch(each) for each in files[:3]]
    cache.close()
    assert [content(copy)[:1] for copy in copies] == [b"\0", b"\1", b"\2"]
    assert len(Unsteady.opened) == 4


def test_a_prefetch_that_fails_shows_only_where_it_is_needed(tmp_path: Path) -> None:
    cache, files = small(tmp_path, 100)
    copy = cache.fetch(files[0])
    cache.prefetch(files[1:])  # no room
    cache.close()
    assert content(copy)[:1] == b"\0"
    assert names(tmp_path) == {files[0].name}


def test_processes_share_a_directory(tmp_path: Path) -> None:
    entries = []
    remote = tmp_path / "remote"
    remote.mkdir()
    for at in range(6):
        data = bytes([at]) * 100
        (remote / str(at)).write_bytes(data)
        entries.append(entry_of(str(at), data))
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    arguments = (str(tmp_path / "cache"), f"file://{remote}", entries, results)
    workers = [context.Process(target=fetch_all, args=arguments) for _ in range(2)]
    for worker in workers:
        worker.start()
    assert [results.get(timeout=120) for _ in workers] == [True] * 2
    for worker in workers:
        worker.join()
    held = list((tmp_path / "cache").glob("*.arrow*"))
    assert sum(path.stat().st_size for path in held) <= 350
    assert all(path.suffix == ".arrow" for path in held)
