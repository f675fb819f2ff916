"""Every byte that maskline commits goes through here: whole or not at all, local or remote.

A path is a local one or any URL that fsspec opens. Locally a file is written beside its final name
and renamed over it; on an object store it is one put under the final name. `create` is the one
compare-and-set there is: it writes only where nothing stands (`O_EXCL`, If-None-Match), which is
what fixed records need; fsspec's `exists` followed by a write would be no lock.

It does not cache remote files and does not retry: a filesystem's own retries apply. What reading
or writing something remote raises is an `OSError` here whatever library it comes from, and names
the path.
"""

import errno
import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

TEMPORARY_SUFFIX = ".tmp"
_CHUNK_BYTES = 2**20
# What filesystems of fsspec speak through: the errors of these libraries need be no OSErrors.
_NETWORK = {"aiohttp", "httpx", "httpx2", "httpcore", "requests", "urllib3", "botocore", "gcsfs"}
# The answers that say that nothing is there (RFC 9110, 15.5.5 and 15.5.11).
_MISSING = (404, 410)
# What has no directories to be made: to make one there is to make the bucket of the path.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
# What S3 answers to one who creates a file: that it is there, or that another is at it right now.
_CREATED_BEFORE = ("PreconditionFailed", "412")
_BEING_CREATED = ("ConditionalRequestConflict", "409")
_CONFLICT_TRIES = 8
_CONFLICT_SECONDS = 0.1


class RemoteError(OSError):
    """Something remote could not be read or written; says which and why."""


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
    # A listing of object stores may be older than another worker's commit. On the hub no worker
    # commits, and it counts who asks: what it said stays until `look_afresh`.
    if fs.protocol != "hf":
        fs.invalidate_cache()
    return fs, str(name)


def look_afresh(path: str) -> None:
    """Forget what this process knows of the hub, where a path leads there."""
    if path.startswith("hf://"):
        fs, _ = filesystem(path)
        fs.clear_instance_cache()  # each thread has an instance that knows for itself


@contextmanager
def remote_reads(path: str) -> Iterator[None]:
    """Turn what the network raises within the block into a `RemoteError`."""
    try:
        yield
    except Exception as error:
        failure = _failure_of(error)
        if failure is None or not is_remote(path):
            raise
        raise _remote_error(path, "read", failure) from error


@contextmanager
def remote_writes(path: str, done: str = "written") -> Iterator[None]:
    """Turn what the network raises within the block, and every `OSError`, into a `RemoteError`."""
    try:
        yield
    except Exception as error:
        failure = _library_error(error) or _library_error(error.__cause__)
        if failure is None and isinstance(error, OSError):
            failure = error
        if failure is None or not is_remote(path):
            raise
        raise _remote_error(path, done, failure) from error


def _remote_error(path: str, done: str, failure: BaseException) -> RemoteError:
    reason = " ".join(f"{type(failure).__name__}: {failure}".split())
    return RemoteError(f"{path} could not be {done} over the network: {reason}")


def _failure_of(error: Exception) -> BaseException | None:
    """Return the network's error behind one; None where it is another, or nothing is there."""
    if isinstance(error, RemoteError):
        return None
    if not isinstance(error, FileNotFoundError):
        # To s3fs an answer that refuses is an OSError, made from one of botocore.
        return _library_error(error) or _library_error(error.__cause__)
    # To fsspec's HTTP every answer but a good one is a missing file.
    cause = error.__cause__
    status = getattr(cause, "status", None)
    is_answer = status is not None or "aiohttp" in _libraries(cause)
    return cause if is_answer and status not in _MISSING else None


def _library_error(error: BaseException | None) -> BaseException | None:
    return error if _NETWORK & _libraries(error) else None


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


def state_key(path: str, info: Mapping[str, Any]) -> str:
    """Return a key that changes when a file is written again, from what its filesystem says of it.

    It is empty where a web server says nothing that would change.
    """
    if not path.startswith(("http://", "https://")):
        return hashlib.sha256(str(info).encode()).hexdigest()
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
    if is_remote(path):
        with remote_reads(path):
            fs, name = filesystem(path)
            # Opened and then read, one that another replaces in between would be an error on S3.
            return bytes(fs.cat_file(name))
    with open_reader(path) as stream:
        return stream.read()


def read_range(path: str, start: int, stop: int) -> bytes:
    """Read the bytes [start, stop) of a file."""
    with remote_reads(path):
        fs, name = filesystem(path)
        return bytes(fs.cat_file(name, start=start, end=stop))


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
        if not exists(root):
            return []
        base = base.rstrip("/") + "/"
        return sorted(name.removeprefix(base) for name in fs.find(base) if is_file_name(name))


def list_folders(root: str) -> list[str]:
    """List the directories right below a root by sorted names; what is in them is not looked at."""
    with remote_reads(root):
        fs, base = filesystem(root)
        if not exists(root):
            return []
        below = fs.ls(base, detail=True)
        paths = (each["name"].rstrip("/") for each in below if each["type"] == "directory")
        return sorted(path.rsplit("/", 1)[-1] for path in paths)


def is_file_name(name: str) -> bool:
    """Tell a file's name from the empty object that stands for a folder of an object store."""
    return not name.endswith("/")


@contextmanager
def naming_full(path: str) -> Iterator[None]:
    """Have the error of a full disk say which file was written: by itself it names none."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = error.filename or path
        raise


@contextmanager
def writing(path: str) -> Iterator[BinaryIO]:
    """Give a stream whose content becomes `path` when the block ends well, and nothing else."""
    remote = is_remote(path)
    if not remote:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    directory = None if remote else str(Path(path).parent)
    handle, temporary = tempfile.mkstemp(suffix=TEMPORARY_SUFFIX, dir=directory)
    try:
        # What is bound for elsewhere fills the directory of temporary files.
        with naming_full(temporary if remote else path), os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        if remote:
            with remote_writes(path):
                fs, name = _ready(path)
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
        with remote_writes(path):
            return _create_remote(path, data)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=TEMPORARY_SUFFIX, dir=target.parent)
    try:
        with naming_full(path), os.fdopen(handle, "wb") as stream:
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


def _create_remote(path: str, data: bytes) -> bool:
    fs, name = _ready(path)
    for tries_left in reversed(range(_CONFLICT_TRIES)):
        try:
            fs.pipe_file(name, data, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            answer = getattr(error.__cause__, "response", {})
            code = answer.get("Error", {}).get("Code") if isinstance(answer, dict) else None
            if code in _CREATED_BEFORE:  # what is not of AWS need not say which condition failed
                return False
            if code not in _BEING_CREATED or not tries_left:
                raise
            time.sleep(_CONFLICT_SECONDS)
        else:
            return True
    raise AssertionError("the last try returns or raises")


def _ready(path: str) -> tuple[Any, str]:
    """Return the filesystem of a path and its name there, once a file can be written at it."""
    fs, name = filesystem(path)
    if path.partition("://")[0] not in _OBJECT_STORES:
        fs.makedirs(fs._parent(name), exist_ok=True)
    return fs, name


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
    with remote_writes(path, "deleted"), suppress(FileNotFoundError):
        fs.rm_file(name)


def remove_tree(path: str) -> None:
    """Delete a directory with all that is in it; one that is gone already is no error."""
    if exists(path):
        with remote_writes(path, "deleted"):
            fs, name = filesystem(path)
            fs.rm(name, recursive=True)


def check_no_file_url(kind: str, path: str) -> None:
    """Refuse a URL of a local file: what is done for local paths alone would be left out."""
    if path.startswith(("file:", "local:")):
        raise ValueError(f"{kind} is {path}: write a local path without a scheme")


def check_absolute_in_job(kind: str, path: str) -> None:
    """Refuse a relative store or run path inside a Ray job, whose directory is thrown away."""
    inside_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if inside_job and not is_remote(path) and not Path(path).is_absolute():
        raise ValueError(
            f"{kind} is the relative path {path!r} inside a Ray job, where it would lie in the "
            "job's temporary working directory and be lost: give an absolute path or a URL"
        )
