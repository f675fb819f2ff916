"""What goes wrong over a network is an error that names the path; object stores have no folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import pytest
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from corpus.files import (
    RemoteError,
    checksum,
    create,
    exists,
    list_names,
    open_reader,
    read_bytes,
    remove,
    size_bytes,
    state_key,
    write_bytes,
)
from corpus.shards import Shard
from pipeline.parquet import read_table
from pipeline.stretch import open_arrow


class PayloadError(Exception):
    """As of a library that a filesystem speaks through: no OSError."""


PayloadError.__module__ = "httpx.exceptions"


class _Failing(MemoryFileSystem):  # type: ignore[misc]
    """A remote filesystem that fails as `error` says."""

    protocol = "failing"
    error: Exception

    def __init__(self) -> None:
        super().__init__(skip_instance_cache=True)

    def info(self, path: str, **_: Any) -> NoReturn:  # noqa: ANN401
        raise self.error

    cat_file = info

    def _open(self, path: str, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        failing = self

        class Stream:
            closed = False

            def read(self, _: int = -1) -> NoReturn:
                raise failing.error

            def seek(self, _: int) -> int:
                return 0

            def close(self) -> None:
                self.closed = True

            def __enter__(self) -> "Stream":
                return self

            def __exit__(self, *_: object) -> None:
                self.close()

        return Stream()


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    monkeypatch.setitem(_registry, "failing", _Failing)
    monkeypatch.setattr(_Failing, "error", error, raising=False)
    return "failing://bucket/x"


@pytest.mark.parametrize("read", [open_arrow, read_table, Shard])
def test_a_network_that_fails_is_no_damage_of_our_files(
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[[str], Any],
) -> None:
    """Whoever is told of damage deletes a snapshot, or does not try again."""
    path = failing(monkeypatch, PayloadError("reset by peer"))
    with pytest.raises(RemoteError, match=r"failing://bucket/x could not be read .*reset by peer"):
        read(path)


def test_an_error_of_the_network_is_an_oserror_that_names_the_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = failing(monkeypatch, PayloadError("not all of it came"))
    for read in (read_bytes, checksum, size_bytes, exists):
        with pytest.raises(
            RemoteError,
            match=r"^failing://bucket/x could not be read over the network: PayloadError: not all",
        ):
            read(path)
    with open_reader(path) as stream, pytest.raises(RemoteError):
        stream.read(1)
    assert stream.closed
    assert issubclass(RemoteError, OSError)


@pytest.mark.parametrize("error", [TypeError("a bug"), PermissionError("denied")])
def test_another_error_stays_what_it_is(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    path = failing(monkeypatch, error)
    for read in (read_bytes, exists):
        with pytest.raises(type(error), match=str(error)):
            read(path)
    missing = failing(monkeypatch, FileNotFoundError(path))
    assert not exists(missing)
    with pytest.raises(FileNotFoundError):
        size_bytes(missing)


def refused(code: str) -> OSError:
    """As s3fs raises what S3 answers: an OSError, which names nothing, made from the client's."""
    cause = PayloadError(f"An error occurred ({code})")
    cause.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]
    error = PermissionError("Forbidden")
    error.__cause__ = cause
    return error


def test_a_refusal_names_the_path_and_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    path = failing(monkeypatch, refused("AccessDenied"))
    for read in (read_bytes, exists, list_names):
        with pytest.raises(
            RemoteError,
            match=r"^failing://bucket/x could not be read over the network: .*\(AccessDenied\)$",
        ):
            read(path)


class _Store(MemoryFileSystem):  # type: ignore[misc]
    """An object store in memory, whose writes raise what is next in `answers`."""

    protocol = "s3"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its parent has it
    pseudo_dirs = [""]  # noqa: RUF012
    answers: list[Exception] = []  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("s3://", "memory://")))

    def _fail(self) -> None:
        if self.answers:
            raise self.answers.pop(0)

    def makedirs(self, path: str, exist_ok: bool = False) -> NoReturn:
        raise AssertionError("a directory of an object store is a bucket, which nobody asked for")

    def pipe_file(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        self._fail()
        super().pipe_file(*arguments, **options)

    def put_file(self, local: str, name: str) -> None:
        self._fail()
        super().pipe_file(name, Path(local).read_bytes())

    def rm_file(self, path: str) -> None:
        self._fail()
        super().rm_file(path)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(_registry, "s3", _Store)
    monkeypatch.setattr(_Store, "store", {})
    monkeypatch.setattr(_Store, "answers", [])
    monkeypatch.setattr("corpus.files._CONFLICT_SECONDS", 0)
    return "s3://bucket"


def test_what_cannot_be_written_is_named(bucket: str) -> None:
    for failure, said in (
        (PayloadError("no connection"), "PayloadError: no connection"),
        (refused("NoSuchBucket"), r"PayloadError: An error occurred \(NoSuchBucket\)"),
        (FileNotFoundError("two\nlines"), "FileNotFoundError: two lines"),
    ):
        for write in (create, write_bytes):
            _Store.answers.append(failure)
            with pytest.raises(RemoteError, match=f"^{bucket}/x could not be written .*: {said}$"):
                write(f"{bucket}/x", b"1")
    assert not exists(f"{bucket}/x")
    write_bytes(f"{bucket}/x", b"1")
    _Store.answers.append(refused("AccessDenied"))
    with pytest.raises(RemoteError, match=f"^{bucket}/x could not be deleted over the network: "):
        remove(f"{bucket}/x")
    _Store.answers.append(FileNotFoundError())
    remove(f"{bucket}/x")


def test_a_whole_file_is_read_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening and reading another may replace it, as a heartbeat; S3 refuses it then."""
    write_bytes(f"{bucket}/x", b"1")
    monkeypatch.setattr(_Store, "cat_file", lambda *_: b"at once", raising=False)
    assert read_bytes(f"{bucket}/x") == b"at once"


def test_a_store_need_not_say_which_condition_failed(bucket: str) -> None:
    _Store.answers.append(refused("PreconditionFailed"))
    assert not create(f"{bucket}/x", b"1")
    assert not exists(f"{bucket}/x")


def test_who_creates_beside_another_asks_again(bucket: str) -> None:
    conflict = refused("ConditionalRequestConflict")
    _Store.answers += [conflict, conflict]
    assert create(f"{bucket}/x", b"1")
    _Store.answers += [conflict]
    assert not create(f"{bucket}/x", b"2")
    assert read_bytes(f"{bucket}/x") == b"1"
    _Store.answers += [conflict] * 100
    with pytest.raises(RemoteError, match="ConditionalRequestConflict"):
        create(f"{bucket}/y", b"1")
    assert len(_Store.answers) > 80


def answering(monkeypatch: pytest.MonkeyPatch, status: int | None) -> None:
    """Let fsspec's HTTP get this answer, None is none, without a network."""

    async def info(*_: Any, **__: Any) -> NoReturn:  # noqa: ANN401
        if status is None:
            raise aiohttp.ServerDisconnectedError
        make: Any = aiohttp.RequestInfo
        request = make("http://e.com/a", "GET", {}, "http://e.com/a")
        raise aiohttp.ClientResponseError(request, (), status=status, message="as it says")

    async def session(_: Any) -> None:  # noqa: ANN401
        return None

    monkeypatch.setattr("fsspec.implementations.http._file_info", info)
    monkeypatch.setattr(HTTPFileSystem, "set_session", session)


@pytest.mark.parametrize(("status", "said"), [(503, "503, message='as it says'"), (None, "Server")])
def test_a_server_that_refuses_does_not_say_that_nothing_is_there(
    monkeypatch: pytest.MonkeyPatch, status: int | None, said: str
) -> None:
    answering(monkeypatch, status)
    for read in (exists, size_bytes):
        with pytest.raises(RemoteError, match=f"http://e.com/a could not be read .*{said}"):
            read("http://e.com/a")


@pytest.mark.parametrize("status", [404, 410])
def test_a_server_may_say_that_nothing_is_there(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    answering(monkeypatch, status)
    assert not exists("http://e.com/a")
    with pytest.raises(FileNotFoundError):
        size_bytes("http://e.com/a")


def test_a_page_that_is_written_again_has_another_state() -> None:
    says: dict[str, object] = {"size": 3}
    assert state_key("https://e.com/a", says) == ""
    found = set[str]()
    for field, value in (("ETag", "1"), ("ETag", "2"), ("Last-Modified", "today"), ("size", 4)):
        says[field] = value
        found.add(state_key("https://e.com/a", says))
    assert len(found) == 4
