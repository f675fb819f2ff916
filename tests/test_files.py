"""Committing is whole or not at all, creating is exclusive, names stay below their root."""

import errno
import os
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from fsspec.registry import known_implementations

from corpus.files import (
    absolute,
    check_absolute_in_job,
    checksum,
    create,
    exists,
    filesystem,
    is_remote,
    join,
    list_names,
    open_reader,
    read_bytes,
    remove,
    remove_tree,
    size_bytes,
    state_key,
    write_bytes,
    writing,
)


@pytest.fixture(params=["local", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for files, once on this disk and once on an fsspec filesystem."""
    if request.param == "local":
        yield str(tmp_path / "root")
        return
    place = f"memory://{uuid.uuid4().hex}"
    yield place
    remove_tree(place)


def test_written_bytes_are_read_back(root: str) -> None:
    path = join(root, "a", "b.bin")
    assert not exists(path)
    write_bytes(path, b"first")
    write_bytes(path, b"the second, longer")
    assert exists(path)
    assert read_bytes(path) == b"the second, longer"
    assert size_bytes(path) == 18
    with open_reader(path) as stream:
        assert stream.read(3) == b"the"


def test_an_absolute_path_keeps_its_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path)
    assert absolute("link/x") == f"{tmp_path}/link/x"
    assert absolute(f"{tmp_path}/link/./y/../x") == f"{tmp_path}/link/x"
    assert absolute("s3://bucket/x") == "s3://bucket/x"


def test_an_exception_inside_leaves_nothing(root: str) -> None:
    with pytest.raises(RuntimeError, match="halfway"), writing(join(root, "x")) as stream:
        stream.write(b"half")
        raise RuntimeError("halfway")
    assert list_names(root) == []


def test_an_exception_inside_leaves_the_old_content(root: str) -> None:
    path = join(root, "x")
    write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt), writing(path) as stream:
        stream.write(b"new")
        raise KeyboardInterrupt
    assert read_bytes(path) == b"old"
    assert list_names(root) == ["x"]


def test_nothing_stands_under_the_name_before_the_end(root: str) -> None:
    path = join(root, "x")
    with writing(path) as stream:
        stream.write(b"all of it")
        stream.flush()
        assert not exists(path)
    assert read_bytes(path) == b"all of it"


def test_local_files_are_readable_by_others(tmp_path: Path) -> None:
    write_bytes(str(tmp_path / "written"), b"")
    create(str(tmp_path / "created"), b"")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_create_writes_only_where_nothing_stands(root: str) -> None:
    path = join(root, "records", "one.json")
    assert create(path, b"first")
    assert not create(path, b"second")
    assert read_bytes(path) == b"first"
    assert list_names(root) == ["records/one.json"]


def test_of_threads_that_create_exactly_one_wins(tmp_path: Path) -> None:
    racers = 8
    with ThreadPoolExecutor(racers) as pool:
        for attempt in range(20):
            path, barrier = str(tmp_path / f"{attempt}"), Barrier(racers)

            def race(number: int, path: str = path, barrier: Barrier = barrier) -> bool:
                barrier.wait()
                return create(path, f"{number}".encode() * 1000)

            won = list(pool.map(race, range(racers)))
            assert sum(won) == 1
            assert read_bytes(path) == f"{won.index(True)}".encode() * 1000
    assert len(list_names(str(tmp_path))) == 20


@pytest.mark.parametrize("name", ["..", "../a", "a/../../b", "/etc/passwd", "a/.."])
def test_names_that_climb_out_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name below /store"):
        join("/store", "fine", name)


@pytest.mark.parametrize(
    ("root", "joined"),
    [
        ("/store", "/store/a/b..c/d"),
        ("/store/", "/store/a/b..c/d"),
        ("/", "/a/b..c/d"),
        ("relative", "relative/a/b..c/d"),
        ("s3://bucket", "s3://bucket/a/b..c/d"),
        ("s3://bucket/", "s3://bucket/a/b..c/d"),
        ("memory://", "memory://a/b..c/d"),
    ],
)
def test_join(root: str, joined: str) -> None:
    assert join(root, "a", "b..c/d") == joined


def test_names_are_listed_sorted_and_relative(root: str) -> None:
    names = ["b/2", "a", "b/10", "b.txt", "c/d/e/f"]
    for name in names:
        write_bytes(join(root, name), b"")
    assert list_names(root) == sorted(names)
    assert list_names(join(root, "b")) == ["10", "2"]
    assert list_names(join(root, "c/")) == ["d/e/f"]
    assert list_names(join(root, "nothing")) == []


def test_names_are_sorted_whatever_the_filesystem_says(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unsorted:
        def exists(self, _: str) -> bool:
            return True

        def find(self, base: str) -> list[str]:
            return [f"{base}{name}" for name in ("b", "a/z", "a")]

    monkeypatch.setattr("corpus.files.filesystem", lambda path: (Unsorted(), path))
    assert list_names("/root") == ["a", "a/z", "b"]


def test_removing_is_harmless_where_nothing_is(root: str) -> None:
    for name in ("a", "b/c", "b/d"):
        write_bytes(join(root, name), b"x")
    for _ in range(2):
        remove(join(root, "a"))
        assert list_names(root) == ["b/c", "b/d"]
    for _ in range(2):
        remove_tree(join(root, "b"))
        assert list_names(root) == []


def test_checksum_is_sha256(root: str) -> None:
    write_bytes(join(root, "abc"), b"abc")  # FIPS 180-2, appendix B.1
    assert checksum(join(root, "abc")) == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_checksum_covers_a_file_longer_than_a_chunk(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(bytes(2**20) + b"a")
    first = checksum(str(path))
    path.write_bytes(bytes(2**20) + b"b")
    assert checksum(str(path)) != first


def state_now(path: str) -> str:
    fs, name = filesystem(path)
    return state_key(path, fs.info(name))


def test_state_key_changes_when_a_file_is_written_again(root: str) -> None:
    path = join(root, "x")
    write_bytes(path, b"one")
    before = state_now(path)
    assert state_now(path) == before
    write_bytes(path, b"two")
    assert state_now(path) != before


def test_remote_paths_are_told_by_their_scheme() -> None:
    assert is_remote("s3://bucket/key")
    assert not is_remote("/a/b")
    assert not is_remote("C:/a")
    fs, name = filesystem("memory://a/b")
    assert (fs.protocol, name) == ("memory", "/a/b")


def test_a_relative_path_inside_a_job_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ValueError, match=r"store is the relative path 'a/b' inside a Ray job"):
        check_absolute_in_job("store", "a/b")
    check_absolute_in_job("store", "/a/b")
    check_absolute_in_job("store", "s3://a/b")


def test_a_relative_path_outside_a_job_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    check_absolute_in_job("store", "a/b")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        known_implementations,
        "odd",
        {"class": "no_such_module.Odd", "err": "Install oddfs to access Odd"},
    )
    with pytest.raises(ValueError, match=r"^odd://a/b cannot be opened: Install oddfs to access"):
        exists("odd://a/b")
    with pytest.raises(ValueError, match=r"^nowhere://a cannot be opened: Protocol not known"):
        open_reader("nowhere://a")


def test_a_full_disk_is_told_with_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "a")
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"), writing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match=r"^other$"), writing(path):
        raise OSError("other")  # of what was read to be written here, say
    assert not list(tmp_path.iterdir())


def test_what_is_bound_for_elsewhere_fills_the_disk_of_temporary_files(tmp_path: Path) -> None:
    path, here = f"memory://{tmp_path.name}/a", tempfile.gettempdir()
    message = rf"No space left on device: '{here}/\w+\.tmp'"
    with pytest.raises(OSError, match=message), writing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not exists(path)


def test_a_full_disk_is_told_with_the_file_to_create(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'a'}'"):
        create(str(tmp_path / "a"), b"x")
    assert not list(tmp_path.iterdir())
