"""Where numba keeps compiled code: by what the source says, not by where it lies.

Numba keeps it beside the source, or under a name made from the source's path. `ray job submit`
unpacks a working directory to a new path, and every worker of every job compiled all kernels again.
Here it lies in the user's cache directory, under a digest of the source file and of all files of
ours that it imports, directly or not: numba compiles their functions and constants in, but looks at
the file itself only. A changed file is compiled anew, with what imports it. Numba's own index tells
signatures and processors apart, so machines may share a home directory.

One process compiles a function and the others that want it wait. Without that they all compile it,
and numba may file one signature's code under another's name, for it counts files without a lock.

The directory holds pickles, to be trusted like `__pycache__`: it is made for its owner alone, and
one that belongs to others, or that others may write to, is not used. What cannot be kept here is
kept where numba would. A version of the source takes some 10 MB; old ones may be deleted.
"""

import fcntl
import hashlib
import importlib
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numba
import numpy as np

logger = logging.getLogger(__name__)

# Numba's own parts, which know of types what mypy does not.
caching: Any = importlib.import_module("numba.core.caching")
dispatcher: Any = importlib.import_module("numba.core.dispatcher")
config: Any = numba.config

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("corpus", "pipeline", "pretrain")

_IMPORT = re.compile(r"^\s*(?:from|import)\s+([\w.]+)(?:\s+import\s+(\([^)]*\)|.*))?", re.M)
# How long to wait for another process that compiles: the longest kernel takes a tenth. A guess.
_PATIENCE_SECONDS = 60.0


def share_compiled_code() -> None:
    """Let numba keep what is decorated from now on as this module says."""
    dispatcher.FunctionCache = _SharedCache


def cache_directory() -> Path:
    """Return `maskline` in NUMBA_CACHE_DIR or the user's cache directory; `OSError` without one."""
    if config.CACHE_DIR:
        return Path(config.CACHE_DIR) / "maskline"
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        base = chosen if chosen.is_absolute() else Path.home() / ".cache"
    except RuntimeError as error:
        raise OSError(str(error)) from None
    return base / "maskline"


def make_own_directory(path: Path) -> None:
    """Make a directory for this user alone; `PermissionError` where others may write to it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.stat()
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} belongs to others, or others may write to it")


def source_digest(path: Path, root: Path = ROOT) -> str:
    """Return a digest of a file below `root`, all files it imports and the versions of numba."""
    digest = hashlib.sha256(f"numba {numba.__version__} numpy {np.__version__}".encode())
    for name in sorted(imported_files(path.relative_to(root).as_posix(), root)):
        digest.update(f"{name} {_read(name, root)[0]}\n".encode())
    return digest.hexdigest()[:32]


def imported_files(name: str, root: Path = ROOT) -> set[str]:
    """Return the names below `root` of a file and of all that it imports, directly or not."""
    found, todo = {name}, [name]
    while todo:
        new = _read(todo.pop(), root)[1] - found
        found |= new
        todo += new
    return found


@cache
def _read(name: str, root: Path) -> tuple[str, frozenset[str]]:
    """Return the checksum of a source file and the names of the files that it imports."""
    data = (root / name).read_bytes()
    imports = (each for each in _candidates(data.decode()) if (root / each).is_file())
    return hashlib.sha256(data).hexdigest(), frozenset(imports)


def _candidates(source: str) -> Iterator[str]:
    """Give the files of ours that the imports of a source may mean."""
    for module, names in _IMPORT.findall(source):
        base = module.replace(".", "/")
        if base.split("/")[0] in PACKAGES:
            yield f"{base}.py"
            yield f"{base}/__init__.py"
            yield from (f"{base}/{name}.py" for name in re.findall(r"\w+", names))


class _ByContent(caching.InTreeCacheLocator):  # type: ignore[misc]
    """Tells numba where the code of a function of ours lies."""

    def __init__(self, py_func: Any, py_file: str) -> None:  # noqa: ANN401 - any function
        super().__init__(py_func, py_file)
        self._digest = source_digest(Path(py_file).resolve())

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> "_ByContent | None":  # noqa: ANN401
        """Return nothing for functions that are not ours."""
        path = Path(py_file).resolve()
        ours = path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in PACKAGES
        located: _ByContent | None = super().from_function(py_func, py_file) if ours else None
        return located

    def get_cache_path(self) -> str:
        return str(cache_directory() / self._digest)

    def get_source_stamp(self) -> str:
        return self._digest

    def ensure_cache_path(self) -> None:
        make_own_directory(cache_directory())
        super().ensure_cache_path()


class _SharedCodeImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_ByContent, *caching.CompileResultCacheImpl._locator_classes)


class _SharedCache(caching.FunctionCache):  # type: ignore[misc]
    """The code of one function; who misses in it holds its lock until the code is saved."""

    _impl_class = _SharedCodeImpl

    def __init__(self, py_func: Any) -> None:  # noqa: ANN401 - any function
        try:
            super().__init__(py_func)
        except RuntimeError as error:  # numba has looked in all places, its own too
            raise OSError(
                f"compiled code can be kept nowhere: {error}; set XDG_CACHE_HOME or "
                "NUMBA_CACHE_DIR to a directory that you may write to"
            ) from None
        self._lock: BinaryIO | None = None
        self._depth = 0  # a function may call itself, with arguments of another type

    def load_overload(self, sig: Any, target_context: Any) -> Any:  # noqa: ANN401
        """Return the code, which another process may just have compiled, or nothing."""
        found = self._find(sig, target_context)
        if found is None and isinstance(self._impl.locator, _ByContent):
            self._acquire()
            found = self._find(sig, target_context)
            if found is not None:
                self._release()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:  # noqa: ANN401
        """Keep code where there is room for it; it has been compiled and serves all the same."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            logger.warning("compiled code is not kept: %s", error)
        finally:
            self._release()

    def _find(self, sig: Any, target_context: Any) -> Any:  # noqa: ANN401
        with suppress(OSError):
            return super().load_overload(sig, target_context)
        return None

    def _acquire(self) -> None:
        self._depth += 1
        if self._lock is None:
            with suppress(OSError):  # where nothing can be kept, nobody need be waited for
                self._impl.locator.ensure_cache_path()
                path = Path(self.cache_path) / f"{self._impl.filename_base}.lock"
                self._lock = path.open("ab")
                _wait_for(self._lock)

    def _release(self) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth == 0 and self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._lock.close()
            self._lock = None


def _wait_for(lock: BinaryIO) -> None:
    """Take a lock, or go on without: to compile twice is better than to wait for ever."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.05)
    return None
