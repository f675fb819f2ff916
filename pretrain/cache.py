"""Local copies of remote shards: whole, verified, and never more of them than a bound.

A copy is named by its checksum, so that runs and stores may share a directory. It is downloaded
beside its final name, compared with the manifest's checksum and renamed, so a file under its final
name was whole. A process compares a copy of another one, or of an earlier start, once more before
it takes it first: one that a disk has damaged since is downloaded again. What the next steps need
is fetched in the background; what was needed longest ago goes when room is short. A shard is let go
of as soon as its rows are read, but for those of the window in which a batch ends. A read that
fails is tried again, with growing pauses; in the end that is an `OSError`, as the store may be back
when the same run is started again.

Several processes share a directory through file locks alone, which end with their holder however it
ends: one on `lock` while room is made or a name changes, one on a `.part` file while it is
downloaded, and a shared one on each copy in use, which is therefore never deleted for room. Of what
else lies in the directory nothing is counted or deleted. So a copy in use is an open file: the
process's limit of these (`ulimit -n`) is raised to the most that it may be.

Cost: one pass of SHA-256 over each download, and over each copy that was there before.
"""

import fcntl
import hashlib
import logging
import os
import re
import resource
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

from corpus.files import exists, open_reader, remote_reads, try_lock
from corpus.snapshots import ShardEntry
from corpus.training import Cache

logger = logging.getLogger(__name__)

# Guesses: 0.5 + 1 + 2 + 4 seconds outlast a restart of a proxy, not an outage.
ATTEMPTS = 5
_FIRST_PAUSE_SECONDS = 0.5
# A guess: one download seldom fills a network link, many disturb training.
_DOWNLOADS = 4
_DOWNLOADS_AHEAD = 8  # waited for when the process ends
_CHUNK_BYTES = 2**20
# What macOS allows where it says that it sets no limit (its sys/syslimits.h, OPEN_MAX).
_MACOS_OPEN_MAX = 10_240
_PART = ".part"
# A copy, as `Wanted.name` calls it, or its download: the directory may hold files of others.
_OWN_NAME = re.compile(r"[0-9a-f]{64}-[0-9]+\.arrow(\.part)?")


# How long to wait for room that other ranks of the machine take: they let go of a shard with their
# next step, which does not wait for ours. A guess at what is longer than any step.
_ROOM_PATIENCE_SECONDS = 300.0
_ROOM_PAUSE_SECONDS = 0.1

T = TypeVar("T")


class ShardUnreadableError(OSError):
    """A shard could not be read now; the store may answer again later."""


class NoRoomError(ValueError):
    """The shards in use leave no room for another one."""


class Copy:
    """A local copy of a shard, kept from being deleted until `close` or its last use."""

    def __init__(self, path: Path, handle: int) -> None:
        """Take over an open and locked file."""
        self.path, self.handle = str(path), handle
        self.close = weakref.finalize(self, os.close, handle)


class Wanted(NamedTuple):
    """A shard that is needed: its URL and what the manifest says of it."""

    url: str
    entry: ShardEntry

    @property
    def name(self) -> str:
        """The name of its copy."""
        return f"{self.entry.checksum}-{self.entry.size_bytes}.arrow"


class ShardCache:
    """One directory of copies."""

    def __init__(self, config: Cache) -> None:
        """Open the directory, or make it."""
        self.max_bytes = config.max_bytes
        self._root = Path(config.directory)
        self._root.mkdir(parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="shards")
        self._pending: dict[str, Future[None]] = {}
        self._compared: set[str] = set()  # names of copies whose checksum this process has seen
        self._guard = threading.Lock()

    def prefetch(self, wanted: Iterable[Wanted]) -> None:
        """Fetch the next few shards in the background; what fails is tried again when used."""
        with self._guard:
            self._pending = {k: v for k, v in self._pending.items() if not v.done()}
            for each in wanted:
                if len(self._pending) == _DOWNLOADS_AHEAD:
                    break
                is_ready = each.name in self._compared and (self._root / each.name).exists()
                if each.name not in self._pending and not is_ready:
                    self._pending[each.name] = self._pool.submit(self._fetch_quietly, each)

    def fetch(self, wanted: Wanted) -> Copy:
        """Give a copy of a shard.

        `ShardUnreadableError` names one that cannot be had now, `ValueError` one that never can.
        """
        with self._guard:
            pending = self._pending.pop(wanted.name, None)
        if pending is not None and not pending.cancel():
            wait([pending])
        copy = self._obtain(wanted, time.monotonic() + _ROOM_PATIENCE_SECONDS)
        os.utime(copy.handle)  # not by its name: another process may just have deleted it
        return copy

    def close(self) -> None:
        """End the downloads that have not begun and wait for the others."""
        self._pool.shutdown(cancel_futures=True)

    def _fetch_quietly(self, wanted: Wanted) -> None:
        with suppress(ValueError, OSError):
            self._obtain(wanted, deadline=0.0).close()

    def _obtain(self, wanted: Wanted, deadline: float) -> Copy:
        """Take a copy, downloaded if need be; wait for room until `deadline`."""
        final = self._root / wanted.name
        part = final.with_name(final.name + _PART)
        while True:
            copy = _hold(final)
            if copy is not None and self._is_whole(wanted, copy):
                return copy
            try:
                stream = self._claim(final, part, wanted.entry.size_bytes)
            except NoRoomError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ROOM_PAUSE_SECONDS)
                continue
            if stream is None:
                _wait_for(part)
                continue
            with stream:
                try:
                    retried(wanted.url, partial(_download, wanted, stream))
                except (ValueError, ShardUnreadableError):
                    self._discard(part)
                    raise
                with self._locked():
                    part.rename(final)
                self._compared.add(wanted.name)

    def _discard(self, part: Path) -> None:
        """Delete a download that failed, while nobody lists files or is about to lock one."""
        with self._locked():
            part.unlink()

    def _is_whole(self, wanted: Wanted, copy: Copy) -> bool:
        """Compare a copy's checksum, once; one that differs is let go of and deleted.

        Whoever uses it now keeps what is open.
        """
        if wanted.name in self._compared:
            return True
        with os.fdopen(copy.handle, "rb", closefd=False) as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found == wanted.entry.checksum:
            self._compared.add(wanted.name)
            return True
        logger.warning(
            "%s, the copy of shard %s, has checksum %s: it is downloaded again",
            copy.path,
            wanted.entry.path,
            found,
        )
        with self._locked(), suppress(FileNotFoundError):
            if _is_in_place(copy):  # nobody has put another one there meanwhile
                Path(copy.path).unlink()
        copy.close()
        return False

    def _claim(self, final: Path, part: Path, size: int) -> BinaryIO | None:
        """Open a file to download into, with room for it; None where another process does."""
        with self._locked():
            if final.exists():
                return None
            stream = part.open("a+b")
            if not try_lock(stream):
                stream.close()
                return None
            try:
                self._make_room(part, size)
            except NoRoomError:
                part.unlink()
                stream.close()
                raise
            return stream

    def _make_room(self, part: Path, size: int) -> None:
        """Delete what was needed longest ago until `size` more bytes fit; what is used stays."""
        own = (path for path in self._root.iterdir() if _OWN_NAME.fullmatch(path.name))
        others = [path for path in own if path != part]
        used = sum(map(_promised_bytes, others))
        for path in sorted(others, key=lambda each: (each.stat().st_mtime_ns, each.name)):
            if used + size <= self.max_bytes:
                break
            with path.open("rb") as stream:
                if try_lock(stream):
                    used -= _promised_bytes(path)
                    path.unlink()
        if used + size > self.max_bytes:
            raise NoRoomError(
                f"the cache {self._root} may hold {self.max_bytes:,} bytes, shards in use, by "
                f"other processes too, take {used:,} and the next one {size:,}: raise "
                "pretrain.cache.max_bytes, or give other runs a pretrain.cache.directory of theirs"
            )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._root / "lock").open("a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def most_open_files() -> int:
    """Let this process open as many files as it ever may, and say how many those are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (most, _MACOS_OPEN_MAX):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            break
    found, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if found == resource.RLIM_INFINITY else found


def retried(name: str, read: Callable[[], T]) -> T:
    """Read something remote, again after a pause where it fails.

    `ShardUnreadableError` names a shard that no attempt could read, `ValueError` one that the store
    says it does not have. Clients of object stores have errors of their own: all are tried again.
    """
    failure: BaseException | None = None
    for attempt in range(ATTEMPTS):
        try:
            with remote_reads(name):
                return read()
        except ValueError:
            raise
        except Exception as error:
            if isinstance(error, FileNotFoundError) and _is_gone(name):
                raise ValueError(f"shard {name} is missing, its manifest lists it") from error
            failure = error
        if attempt + 1 < ATTEMPTS:
            time.sleep(_FIRST_PAUSE_SECONDS * 2**attempt)
    what = str(failure) or type(failure).__name__
    raise ShardUnreadableError(
        f"shard {name} could not be read in {ATTEMPTS} attempts: {what}"
    ) from failure


def _is_gone(name: str) -> bool:
    """Ask the store whether it has a file that it did not find; no answer is none."""
    try:
        return not exists(name)
    except Exception:  # noqa: BLE001 - the read that it is about is tried again
        return False


def _download(wanted: Wanted, to: BinaryIO) -> None:
    """Copy a shard and compare its checksum; `OSError` where it came otherwise than it should."""
    digest = hashlib.sha256()
    to.truncate(0)
    with open_reader(wanted.url) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            to.write(chunk)
    to.flush()
    if digest.hexdigest() != wanted.entry.checksum:
        raise OSError(
            f"its checksum is {digest.hexdigest()}, its manifest says {wanted.entry.checksum}"
        )


def _hold(path: Path) -> Copy | None:
    """Open a copy and keep it from being deleted; None where there is none."""
    try:
        copy = Copy(path, os.open(path, os.O_RDONLY))
    except FileNotFoundError:
        return None
    fcntl.flock(copy.handle, fcntl.LOCK_SH)
    with suppress(FileNotFoundError):
        if _is_in_place(copy):
            return copy  # nobody deleted it between opening and locking
    copy.close()
    return None


def _is_in_place(copy: Copy) -> bool:
    """Tell whether a copy is what lies under its name now."""
    return os.path.samestat(os.fstat(copy.handle), Path(copy.path).stat())


def _wait_for(part: Path) -> None:
    """Wait until nobody downloads into a file."""
    with suppress(FileNotFoundError), part.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)


def _promised_bytes(path: Path) -> int:
    """Return how large a copy is, or will be: its name says so."""
    return int(path.name.split(".")[0].rpartition("-")[2])
