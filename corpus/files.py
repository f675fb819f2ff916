"""Every byte that maskline commits goes through here: whole or not at all, local or remote.

A path is a local one or any URL that fsspec opens. Locally a file is written beside its final name
and renamed over it; on an object store it is one put under the final name. `create` is the one
compare-and-set there is: it writes only where nothing stands (`O_EXCL`, If-None-Match), which is
what fixed records need; fsspec's `exists` followed by a write would be no lock.

It does not cache remote files and does not retry: a filesystem's own retries apply. What reading
something remote raises is an `OSError` here whatever library it comes from, and names the path.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

TEMPORARY_SUFFIX = ".tmp"
_CHUNK_BYTES = 2**20
# What filesystems of fsspec speak through: the errors of these libraries need be no OSErrors.
_NETWORK = {"aiohttp", "httpx", "httpx2", "httpcore", "requests", "urllib3", "botocore", "gcsfs"}
# The answers that say that nothing is there (RFC 9110, 15.5.5 and 15.5.11).
_MISSING = (404, 410)


class RemoteReadError(OSError):
    """Something remote could not be read; says which and why."""


def is_remote(path: str) -> bool:
    """Tell a URL from a local path."""
    return "://" in path


def join(root: str, *parts: str) -> str:
    """Put names below a root; names that would climb out of it are refused."""
    for part in parts:
        if part.startswith("/") or ".." in part.split("/"):
            raise ValueError(f"{part!r} is not a name below {root}")
    return root + ("" if root.endswith("/") else "/") + "/".join(parts)


def absolute(path: str) -> str:
    """Return a path that does not depend on the working directory; links stay as they are."""
    return path if is_remote(path) else os.path.abspath(path)  # noqa: PTH100 - `resolve` follows


def filesystem(path: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of a path and the path as that filesystem spells it."""
    try:
        fs, name = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:  # names the package to install, or the protocol
        raise ValueError(f"{path} cannot be opened: {error}") from error
    fs.invalidate_cache()  # a listing of object stores may be older than another worker's commit
    return fs, str(name)


@contextmanager
def remote_reads(path: str) -> Iterator[None]:
    """Turn what the network raises within the block into a `RemoteReadError`."""
    try:
        yield
    except Exception as error:
        failure = _failure_of(error)
        if failure is None or not is_remote(path):
            raise
        reason = f"{type(failure).__name__}: {failure}"
        raise RemoteReadError(f"{path} could not be read over the network: {reason}") from error


def _failure_of(error: Exception) -> BaseException | None:
    """Return the network's error behind one; None where it is another, or nothing is there."""
    if not isinstance(error, FileNotFoundError):
        return error if _NETWORK & _libraries(error) else None
    # To fsspec's HTTP every answer but a good one is a missing file.
    cause = error.__cause__
    status = getattr(cause, "status", None)
    is_answer = status is not None or "aiohttp" in _libraries(cause)
    return cause if is_answer and status not in _MISSING else None


def _libraries(error: BaseException | None) -> set[str]:
    return {kind.__module__.partition(".")[0] for kind in type(error).__mro__}


def exists(path: str) -> bool:
    """Tell whether a file is there; a server that does not say raises."""
    if not is_remote(path):
        return Path(path).exists()
    with remote_reads(path):
        fs, name = filesystem(path)
        try:
            # Some filesystems' own `exists` takes every error for a no.
            fs.info(name)
        except FileNotFoundError as error:
            if _failure_of(error) is not None:
                raise
            return False
    return True


def size_bytes(path: str) -> int:
    """Return the size of a file."""
    with remote_reads(path):
        fs, name = filesystem(path)
        return int(fs.size(name))


def state_key(path: str) -> str:
    """Return a cheap key that changes when a file is written again (time, size, ETag).

    It is empty where a web server says nothing that would change.
    """
    with remote_reads(path):
        fs, name = filesystem(path)
        if not path.startswith(("http://", "https://")):
            return str(fs.ukey(name))
        info = fs.info(name)  # to fsspec's `ukey` what a web server has never changes
    said = [info.get(field) for field in ("ETag", "Last-Modified", "Content-MD5", "Digest")]
    return f"{info.get('size')} {said}" if any(said) else ""


class _RemoteReader:
    """A remote file opened for reading, whose errors name it."""

    def __init__(self, path: str, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        """Read bytes."""
        with remote_reads(self._path):
            return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a stream has
        return getattr(self._stream, name)

    def __enter__(self) -> "_RemoteReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def open_reader(path: str) -> BinaryIO:
    """Open a file for reading bytes."""
    with remote_reads(path):
        fs, name = filesystem(path)
        stream = fs.open(name, "rb")
    return cast(BinaryIO, _RemoteReader(path, stream) if is_remote(path) else stream)


def read_bytes(path: str) -> bytes:
    """Read a whole file."""
    with open_reader(path) as stream:
        return stream.read()


def checksum(path: str, start: int = 0, stop: int | None = None) -> str:
    """Return the SHA-256 of a file, or of its bytes [start, stop), in hexadecimal."""
    digest = hashlib.sha256()
    with open_reader(path) as stream:
        stream.seek(start)
        left = None if stop is None else stop - start
        while data := stream.read(_CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES)):
            digest.update(data)
            left = None if left is None else left - len(data)
    return digest.hexdigest()


def list_names(root: str) -> list[str]:
    """List all files below a root as sorted names relative to it; a missing root has none."""
    with remote_reads(root):
        fs, base = filesystem(root)
        if not fs.exists(base):
            return []
        base = base.rstrip("/") + "/"
        return sorted(name.removeprefix(base) for name in fs.find(base))


@contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """Give a stream whose content becomes `path` when the block ends well, and nothing else."""
    remote = is_remote(path)
    if not remote:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    directory = None if remote else str(Path(path).parent)
    handle, temporary = tempfile.mkstemp(suffix=TEMPORARY_SUFFIX, dir=directory)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if remote:
            fs, name = filesystem(path)
            fs.makedirs(fs._parent(name), exist_ok=True)
            fs.put_file(temporary, name)
        else:
            Path(temporary).chmod(0o644)
            Path(temporary).rename(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_bytes(path: str, data: bytes) -> None:
    """Commit a small file whole."""
    with writing(path) as stream:
        stream.write(data)


def create(path: str, data: bytes) -> bool:
    """Commit a small file unless one stands there already; tell which happened."""
    if is_remote(path):
        fs, name = filesystem(path)
        fs.makedirs(fs._parent(name), exist_ok=True)
        try:
            fs.pipe_file(name, data, mode="create")
        except FileExistsError:
            return False
        return True
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=TEMPORARY_SUFFIX, dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    finally:
        Path(temporary).unlink()
    return True


def try_lock(stream: BinaryIO) -> bool:
    """Lock a local file for its holder alone, until it is closed; tell whether that was possible.

    The lock ends with its process however that ends. It is none between machines.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def remove(path: str) -> None:
    """Delete a file; one that is gone already is no error."""
    fs, name = filesystem(path)
    try:
        fs.rm_file(name)
    except FileNotFoundError:
        return


def remove_tree(path: str) -> None:
    """Delete a directory with all that is in it; one that is gone already is no error."""
    fs, name = filesystem(path)
    if fs.exists(name):
        fs.rm(name, recursive=True)


def check_absolute_in_job(kind: str, path: str) -> None:
    """Refuse a relative store or run path inside a Ray job, whose directory is thrown away."""
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if inside_job and not is_remote(path) and not Path(path).is_absolute():
        raise ValueError(
            f"{kind} is the relative path {path!r} inside a Ray job, where it would lie in the "
            "job's temporary working directory and be lost: give an absolute path or a URL"
        )
