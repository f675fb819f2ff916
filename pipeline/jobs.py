"""Runs a stage's tasks on Ray and remembers which are done; the only importer of Ray.

A task is a pure function from files to files. It commits its outputs, then a record with their
checksums and its counts; an output exists once its record does. So the same command again runs only
what has no record, and starts no Ray where nothing is missing. Retries and double execution write
the same bytes again. Which worker did what, and how many there are, never shows.

Without a cluster Ray starts on this machine, bound to loopback; inside `ray job submit`, or with
RAY_ADDRESS set, the cluster is used.
"""

import importlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corpus.connection import connect, prepare_environment
from corpus.files import (
    checksum,
    create,
    join,
    list_names,
    read_bytes,
    remove,
    remove_tree,
    size_bytes,
)
from corpus.snapshots import Tree

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

# Ray's embedded object store carries what tasks are given and numbers that they return, never text;
# beyond this it goes to disk. Guess.
_OBJECT_STORE_BYTES = 100 * 2**20
_LOG_EVERY_SECONDS = 10.0
# Records that are read at a time: in a bucket each takes some 30 ms, whatever its size. Guess.
_READS_AT_A_TIME = 32
# Parts whose ids, say, are looked through by the time that Ray has started: 30 ms each. Guess.
LOOKS = 256
# What a task reads for checksums: a second's work, or files that take as long to open. Guesses.
_BYTES_OF_A_RUN, _FILES_OF_A_RUN = 2**30, 256

# Stages whose outputs, below work/, only a later stage of the same snapshot needs.
WORK_STAGES = (
    *("group", "fetch", "verify", "deal", "judge"),
    *("count", "count-words", "add-words", "gather"),
)


class Output(NamedTuple):
    """What a task returns: the files it committed (relative to the snapshot) and its counts."""

    paths: tuple[str, ...]
    counts: dict[str, Any]


class Task(NamedTuple):
    """One unit of work; `name` is made from its inputs and lineage alone."""

    name: str
    function: Callable[..., Output]
    arguments: tuple[Any, ...]


class Record(NamedTuple):
    """What is known of a finished task."""

    files: tuple[dict[str, Any], ...]
    counts: dict[str, Any]
    elapsed_seconds: float


class Stages:
    """Runs the stages of one snapshot; Ray starts with the first task that is missing."""

    def __init__(self, tree: Tree, workers: int | None) -> None:
        """Work below a snapshot's directory with this many tasks at a time."""
        self.tree = tree
        self.root = tree.root
        self._workers = workers
        self._started_ray = False
        self.tasks_run = 0
        self.seconds: dict[str, float] = {}

    @property
    def workers(self) -> int:
        """How many tasks are wanted at a time, as far as the recipe says."""
        return self._workers or os.cpu_count() or 1

    def missing(self, stage: str, names: Iterable[str]) -> set[str]:
        """Return which of these tasks of a stage have no record."""
        return set(names).difference(self._recorded(stage))

    def run(self, stage: str, tasks: Sequence[Task]) -> dict[str, Record]:
        """Run what is missing of a stage and return the records of all of it, by task name."""
        without = self.missing(stage, [task.name for task in tasks])
        missing = [task for task in tasks if task.name in without]
        if missing:
            logger.info(
                "%s: %d tasks, %d done before", stage, len(tasks), len(tasks) - len(missing)
            )
            start = time.perf_counter()
            self._run_missing(stage, missing)
            self.seconds[stage] = time.perf_counter() - start
            logger.info("%s: done in %.1f s", stage, self.seconds[stage])
        names = [task.name for task in tasks]
        with ThreadPoolExecutor(_READS_AT_A_TIME) as pool:
            records = pool.map(lambda name: read_record(self.root, stage, name), names)
            return dict(zip(names, records, strict=True))

    def renew(self, names: Iterable[str]) -> None:
        """Let later stages read these files from the snapshot's own directory."""
        self.tree = self.tree.renewed(names)

    def close(self) -> None:
        """Stop the Ray that this object started."""
        if self._started_ray:
            _import_ray().shutdown()

    def _recorded(self, stage: str) -> list[str]:
        names = list_names(join(self.root, "records", stage))
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    def _run_missing(self, stage: str, missing: Sequence[Task]) -> None:
        ray, is_own = _connected(self.workers)
        self._started_ray |= is_own
        remote = ray.remote(num_cpus=1, max_retries=3)(run_task)
        tree = ray.put(self.tree)  # once, as it may list many files
        put = _put_shared(ray, missing)

        def start(task: Task) -> Any:  # noqa: ANN401 - Ray's reference
            given = [put.get(id(each), each) for each in task.arguments]
            return remote.remote(tree, stage, task._replace(arguments=()), *given)

        for number, reference in _run_all(ray, stage, _limit(ray, self._workers), start, missing):
            _result(ray, reference, f"{stage} {missing[number].name}")
            self.tasks_run += 1


class Pool:
    """Maps functions over items on Ray and keeps no record: for what reads a store and writes none.

    With one worker, or for few items, all is done in this process and no Ray starts.
    """

    def __init__(self, workers: int | None = 1) -> None:
        """Prepare so many tasks at a time; `None` is one a CPU, of the cluster where there is one.

        Used as a context, it stops the Ray that it started.
        """
        self.workers = workers
        self._started_ray = False

    def __enter__(self) -> "Pool":
        """Return the pool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the Ray that this object started."""
        if self._started_ray:
            _import_ray().shutdown()

    def map(
        self,
        what: str,
        function: Callable[..., Result],
        items: Sequence[Any],
        *shared: Any,  # noqa: ANN401 - whatever the function takes
        least: int = 2,
    ) -> Iterator[Result]:
        """Give `function(item, *shared)` for every item in order; `shared` is sent once.

        `what` is what progress and errors are told under; of fewer items than `least` Ray is not
        asked.
        """
        if self.workers == 1 or len(items) < least:
            yield from (function(item, *shared) for item in items)
            return
        ray, is_own = _connected(self.workers or os.cpu_count() or 1)
        self._started_ray |= is_own
        remote = ray.remote(num_cpus=1, max_retries=3)(function)
        sent = [ray.put(each) for each in shared]
        limit = _limit(ray, self.workers)
        done: dict[int, Result] = {}
        given = 0
        tasks = _run_all(ray, what, limit, lambda item: remote.remote(item, *sent), items)
        for number, reference in tasks:
            done[number] = _result(ray, reference, what)
            while given in done:
                yield done.pop(given)
                given += 1


# All in this process, without Ray.
HERE = Pool()


def in_runs(items: Iterable[Item], size_bytes: Callable[[Item], int]) -> list[list[Item]]:
    """Cut files into runs that a task reads whole: of a bounded number and size, or of one file."""
    runs: list[list[Item]] = []
    held = 0
    for item in items:
        size = size_bytes(item)
        if not runs or len(runs[-1]) == _FILES_OF_A_RUN or held + size > _BYTES_OF_A_RUN:
            runs.append([])
            held = 0
        runs[-1].append(item)
        held += size
    return runs


def _connected(workers: int) -> tuple[Any, bool]:
    """Return Ray, reached, and whether it was started for this."""
    ray = _import_ray()
    if ray.is_initialized():
        return ray, False
    connect(ray, workers, _OBJECT_STORE_BYTES, log_to_driver=False)
    return ray, True


def _limit(ray: Any, workers: int | None) -> int:  # noqa: ANN401 - the module
    """Return how many tasks are to run at a time."""
    return workers or max(1, int(ray.cluster_resources().get("CPU", 1)))


def _run_all(
    ray: Any,  # noqa: ANN401 - the module
    what: str,
    limit: int,
    start: Callable[[Any], Any],
    items: Sequence[Any],
) -> Iterator[tuple[int, Any]]:
    """Start a task for every item, so many at a time; give number and reference as each ends."""
    waiting = iter(enumerate(items))
    running: dict[Any, int] = {}
    with _progress(what, len(items)) as advance:
        while True:
            for number, item in islice(waiting, limit - len(running)):
                running[start(item)] = number
            if not running:
                return
            finished, _ = ray.wait(list(running), num_returns=1)
            for reference in finished:
                yield running.pop(reference), reference
                advance()


def _put_shared(ray: Any, tasks: Sequence[Task]) -> dict[int, Any]:  # noqa: ANN401 - the module
    """Hand Ray once what several tasks are given: it may list all parts of a corpus.

    Return Ray's references by the identity of the tuple or list.
    """
    lists = [each for task in tasks for each in task.arguments if isinstance(each, tuple | list)]
    shared = {id(each): each for each in lists}
    given = Counter(map(id, lists))
    return {key: ray.put(each) for key, each in shared.items() if given[key] > 1}


def run_task(tree: Tree, stage: str, task: Task, *beside: Any) -> None:  # noqa: ANN401 - any
    """Do one task and commit its record; this is what runs in a worker.

    `beside` are its arguments, where they were taken out of it to be sent by reference.
    """
    start = time.perf_counter()
    output = task.function(tree, task.name, *task.arguments, *beside)
    record = {
        "files": [describe_file(tree.root, path) for path in output.paths],
        "counts": output.counts,
        "elapsed_seconds": time.perf_counter() - start,
    }
    create(_record_path(tree.root, stage, task.name), orjson.dumps(record))


def describe_file(root: str, path: str) -> dict[str, Any]:
    """Return path, size and checksum of a committed file."""
    full = join(root, path)
    return {"path": path, "size_bytes": size_bytes(full), "checksum": checksum(full)}


def read_record(root: str, stage: str, name: str) -> Record:
    """Return the record of a finished task; `ValueError` names a damaged one."""
    path = _record_path(root, stage, name)
    try:
        fields: Mapping[str, Any] = orjson.loads(read_bytes(path))
        return Record(tuple(fields["files"]), fields["counts"], fields["elapsed_seconds"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"the record {path} is damaged ({error}): delete it to redo") from None


def sweep(root: str, keep: set[str]) -> None:
    """Delete what a finished snapshot does not need: work files and strays of killed tasks.

    Records stay, but for those of deleted work files, so that a kill right here costs nothing.
    """
    for stage in WORK_STAGES:
        remove_tree(join(root, "records", stage))
    remove_tree(join(root, "work"))
    for name in list_names(root):
        if name not in keep and not name.startswith("records/"):
            remove(join(root, name))


def _record_path(root: str, stage: str, name: str) -> str:
    return join(root, "records", stage, f"{name}.json")


def _import_ray() -> Any:  # noqa: ANN401 - the module itself
    """Import Ray, which happens only where there is work for it."""
    prepare_environment()
    return importlib.import_module("ray")


def _result(ray: Any, reference: Any, what: str) -> Any:  # noqa: ANN401 - the module itself
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise ValueError(f"{what}: {error.cause}") from error
        if isinstance(error.cause, OSError):
            raise OSError(f"{what}: {error.cause}") from error
        raise


@contextmanager
def _progress(stage: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal, a line per interval elsewhere."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            shown = bar.add_task(stage, total=total)
            yield lambda: bar.advance(shown)
        return
    done, logged = 0, time.perf_counter()

    def advance() -> None:
        nonlocal done, logged
        done += 1
        if time.perf_counter() - logged > _LOG_EVERY_SECONDS:
            logged = time.perf_counter()
            logger.info("%s: %d of %d tasks", stage, done, total)

    yield advance
