"""The lease of a store: of two commands that would write it, the second ends and says who is first.

Holders are numbered files below `<store>/lease/`, and the highest number holds. To acquire is to
create the next number where nothing stands, which only one can; taking over from a dead holder is
the same compare-and-set. `<n>.json` says who holds and never changes, `<n>.beat` is a counter that
a thread of the holder renews, `<n>.released` ends it. The next holder removes older files; the
highest number always stays, so that numbers never go back.

A killed holder blocks nobody. Where the newcomer sees the same processes (same host, boot, process
namespace and user) a holder whose process is gone is taken over at once; elsewhere a holder is dead
once its counter stands still while the newcomer watches. Clocks of two machines are never compared.
A holder that only seemed dead learns of it by `check()`, to be called right before a commit.

Cost: a handful of small requests to acquire, one write every HEARTBEAT_SECONDS while it is held. It
keeps writers of one store apart; it does not make their writes atomic: between `check()` and the
commit after it there is a moment in which nothing is checked.
"""

import logging
import os
import re
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corpus.files import create, exists, join, list_names, read_bytes, remove, write_bytes

logger = logging.getLogger(__name__)

# Guesses: a beat is cheap even on an object store, and two lost ones in a row are not yet a death.
HEARTBEAT_SECONDS = 10.0
WATCH_SECONDS = 30.0
POLL_SECONDS = 1.0

_NAME = re.compile(r"(\d{8})\.(json|beat|released)")
# Start times are exact to a second or so; process ids do not come round again that soon.
_SAME_START_SECONDS = 2.0


class Holder(BaseModel):
    """Who holds a lease: what the message of the one who comes second is made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    process_id: int = Field(ge=1)
    started_seconds: float = Field(description="start of the process, seconds after boot")
    processes: str | None = Field(description="whose processes these are; None: not known")
    label: str
    since: str
    nonce: str

    def __str__(self) -> str:
        """Name the holder in words."""
        return f"{self.label} (process {self.process_id} on {self.host}, since {self.since})"


class Lease:
    """A lease that is held: number `number` of a store."""

    def __init__(self, store: str, number: int) -> None:
        """Stand for a number that was acquired."""
        self.store = store
        self.number = number

    def check(self) -> None:
        """Raise `ValueError` where another has taken the lease over in the meantime."""
        highest = _highest(self.store)
        if highest == self.number and exists(_path(self.store, self.number, "json")):
            return
        other = _read(self.store, highest) if highest > self.number else None
        raise ValueError(
            f"the lease of {self.store} was lost to {other or 'an unknown process'} while this "
            "command was at work, because its heartbeat stood still or its lease was deleted: "
            "nothing was committed; run it again once the other has ended"
        )


@contextmanager
def holding(store: str, label: str) -> Iterator[Lease]:
    """Hold the lease of a store as `label` for a block; `ValueError` names who else holds it."""
    lease = Lease(store, _acquire(store, _this_process(label)))
    stop = Event()
    arguments = (_path(store, lease.number, "beat"), stop)
    thread = Thread(target=_beat, args=arguments, name="lease heartbeat", daemon=True)
    thread.start()
    try:
        _prune(store, lease.number)
        yield lease
    finally:
        stop.set()
        thread.join()
        _release(_path(store, lease.number, "released"))


def _release(path: str) -> None:
    """Say that a number is free; where that fails, what the block raised is what its user reads."""
    try:
        create(path, b"")
    except OSError as error:
        logger.warning("the lease was not released, as a killed holder's is not: %s", error)


def _path(store: str, number: int, kind: str) -> str:
    return join(store, "lease", f"{number:08d}.{kind}")


def _numbered(store: str) -> list[tuple[int, str]]:
    """List (number, path) of the lease files; what else lies there is none of ours."""
    root = join(store, "lease")
    matches = [_NAME.fullmatch(name) for name in list_names(root)]
    return [(int(match[1]), join(root, match[0])) for match in matches if match]


def _highest(store: str) -> int:
    """Return the highest number, of any kind of file: none is ever given out twice."""
    return max((number for number, _ in _numbered(store)), default=0)


def _read(store: str, number: int) -> Holder | None:
    """Return who took a number, or None where its file was removed."""
    path = _path(store, number, "json")
    try:
        return Holder.model_validate_json(read_bytes(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        detail = error.errors()[0]["msg"]
        raise ValueError(
            f"{path} is damaged ({detail}): make sure that nothing else works on {store}, then "
            "delete this file"
        ) from None


def _acquire(store: str, holder: Holder) -> int:
    """Take the next number as soon as the newest is free; `ValueError` where it is not."""
    while True:
        number = _highest(store)
        _check_free(store, number)
        if _claim(store, number + 1, holder):
            return number + 1


def _claim(store: str, number: int, holder: Holder) -> bool:
    """Create a number; tell whether it is ours and the highest."""
    path = _path(store, number, "json")
    created = create(path, holder.model_dump_json().encode())
    # A remote filesystem that repeats a request finds its own first try in the way.
    if not created and _read(store, number) != holder:
        return False
    if _highest(store) == number:
        return True
    remove(path)  # others came and went since the listing, and this number with them
    return False


def _prune(store: str, number: int) -> None:
    for older, path in _numbered(store):
        if older < number:
            remove(path)


def _check_free(store: str, number: int) -> None:
    """Raise `ValueError` where somebody alive holds this number."""
    holder = _read(store, number)
    if holder is None or exists(_path(store, number, "released")):
        return
    if holder.processes is not None and holder.processes == _visible_processes():
        alive = _is_running(holder)
    else:
        alive = _is_beating(store, number, holder)
    if alive:
        raise ValueError(
            f"{store} is held by {holder}, and one command at a time writes a store: wait until it "
            "ends, or end it, and run this one again"
        )
    logger.warning("%s was held by %s, which is gone: taking over", store, holder)


def _this_process(label: str) -> Holder:
    started = _started_seconds(os.getpid())
    assert started is not None
    return Holder(
        host=socket.gethostname(),
        process_id=os.getpid(),
        started_seconds=started,
        processes=_visible_processes(),
        label=label,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
        nonce=uuid.uuid4().hex,
    )


def _visible_processes() -> str | None:
    """Return what is equal for those who see one set of processes; None where it is not known.

    Containers on one machine share its boot but not its process ids; another user's processes may
    be hidden.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return None
    return f"{socket.gethostname()} {boot} {namespace} {os.getuid()}"


def _started_seconds(process_id: int) -> float | None:
    """Return when a process started, in seconds after boot, or None where it is gone."""
    try:
        process = psutil.Process(process_id)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # Both terms move when the clock is set; their difference does not.
        return float(process.create_time() - psutil.boot_time())
    except psutil.NoSuchProcess:
        return None


def _is_running(holder: Holder) -> bool:
    """Tell whether the process lives; another that got its id later is not it."""
    started = _started_seconds(holder.process_id)
    return started is not None and abs(started - holder.started_seconds) < _SAME_START_SECONDS


def _is_beating(store: str, number: int, holder: Holder) -> bool:
    """Watch a holder on another host until its counter moves, or for WATCH_SECONDS."""
    logger.info("%s is held by %s: watching its heartbeat for %g s", store, holder, WATCH_SECONDS)
    path = _path(store, number, "beat")
    deadline = time.monotonic() + WATCH_SECONDS
    before = _read_beat(path)
    while True:
        expired = time.monotonic() >= deadline  # read first, so that the last look comes after it
        if _read_beat(path) != before:
            return True
        if expired:
            return False
        time.sleep(POLL_SECONDS)


def _read_beat(path: str) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return b""


def _beat(path: str, stop: Event) -> None:
    """Renew the counter until told to stop; a write that failed is tried again at the next beat."""
    count = 0
    while not stop.wait(HEARTBEAT_SECONDS):
        count += 1
        try:
            write_bytes(path, str(count).encode())
        except OSError as error:
            logger.warning("%s was not renewed: %s", path, error)
