"""Starts the ranks of a training run: in this process, on this machine, under a launcher, on Ray.

The same `train` runs in every rank. Under torchrun or the deepspeed launcher (RANK and WORLD_SIZE
are set) this process is one rank of theirs; with pretrain.ray_workers they are workers of Ray Train
(cluster.py). Otherwise ranks meet through a file and talk over the loopback interface only. With
GPUs they talk by NCCL, without by gloo.

The first rank that fails ends all others, and its message is the one that is shown. SIGTERM reaches
all of them and is answered by a checkpoint (preemption.py). Ranks watch the process that started
them and end with it, however it ends.
"""

import atexit
import ctypes
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed import FileStore, HashStore, Store  # type: ignore[attr-defined]

from corpus.connection import prepare_environment
from corpus.recipe import Recipe
from pretrain.meeting import listen, open_store, use_interface
from pretrain.preemption import EXIT_STATUS, Notice, PreemptedError, listening
from pretrain.quirks import import_deepspeed, leave_group
from pretrain.resume import check_newest
from pretrain.train import train
from pretrain.world import World
from pretrain.writer import CheckpointFailedError

logger = logging.getLogger(__name__)

# The longest that one rank may wait for another: rank 0 may wait for the checkpoint before.
TIMEOUT = timedelta(minutes=30)

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc, malloc.h


class RankFailedError(RuntimeError):
    """A rank ended, and not by a mistake of the user's."""


def run_training(recipe: Recipe) -> None:
    """Train as the recipe says, on as many ranks as it says."""
    config, newest = recipe.pretrain, check_newest(recipe)
    if newest and newest.step >= config.max_steps:
        asked = f", and the recipe asks for {config.max_steps:,}"
        more = "" if newest.step == config.max_steps else asked
        logger.info("%s is complete: it has %s steps%s", config.run, f"{newest.step:,}", more)
    elif recipe.pretrain.ray_workers is not None:
        open_cluster().run_on_ray(recipe)
    elif place := _launched_place():
        with listening():
            train(recipe, join(*place), Notice())
    elif recipe.pretrain.processes == 1:
        with listening():
            train(recipe, join(0, 1, 0), Notice())
    else:
        _run_processes(recipe)


def _launched_place() -> tuple[int, int, int] | None:
    """Read rank, number of ranks and rank on this machine as a launcher gives them, if one does.

    MASTER_ADDR by itself is no launcher: containers set it, and shells that one was used in.
    """
    if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
        return None
    missing = [name for name in _LAUNCHED if name not in os.environ]
    if missing:
        raise ValueError(
            f"the environment has no {', '.join(missing)}, which a launcher gives beside RANK and "
            "WORLD_SIZE: set what is missing, or unset these two to train without a launcher"
        )
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])


def open_cluster() -> Any:  # noqa: ANN401 - a module
    """Import what speaks to Ray, after its settings are in the environment."""
    prepare_environment()
    return importlib.import_module("pretrain.cluster")


def join(rank: int, size: int, local_rank: int, meeting_point: Path | Store | None = None) -> World:
    """Join the process group: through a file or a store, or as the launcher's environment says.

    A process joins once, and stays until it ends: DeepSpeed keeps what it made of the group.
    """
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"rank {rank} wants GPU {local_rank}, this machine has "
                f"{torch.cuda.device_count()}: lower pretrain.processes"
            )
        torch.cuda.set_device(device)
    elif size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    if not distributed.is_initialized():
        backend = "nccl" if has_gpu else "gloo"
        os.environ.setdefault("LOCAL_RANK", str(local_rank))  # what DeepSpeed goes by
        import_deepspeed()
        store = _meet(rank, size, meeting_point)
        if store is None:  # torchrun serves one
            distributed.init_process_group(backend, timeout=TIMEOUT)
        else:
            distributed.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT
            )
        atexit.register(leave_group)
    return World(rank, size, device)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, for the next step needs it again.

    It returns large pieces to the system, which gives them back page by page, each filled with
    zeros: a tenth of a step of `small` on a CPU (2026-11). Only for a process that is ours alone:
    one that keeps what it never used may grow beyond the machine, and then it cannot fork.
    """
    with suppress(OSError, AttributeError):  # no glibc
        library = ctypes.CDLL("libc.so.6")
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _meet(rank: int, size: int, meeting_point: Path | Store | None) -> Store | None:
    """Open the store of the group, or None where torch is to find it by the environment."""
    if isinstance(meeting_point, Store):
        return meeting_point
    if size == 1 or meeting_point is not None:  # nobody to meet, whatever the environment says
        use_interface("127.0.0.1")
        return HashStore() if meeting_point is None else FileStore(str(meeting_point), size)
    host = os.environ["MASTER_ADDR"]
    if host in ("127.0.0.1", "localhost"):
        use_interface("127.0.0.1")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return None
    address = (host, int(os.environ["MASTER_PORT"]))
    listener = listen(*address) if rank == 0 else None
    return None if rank == 0 and listener is None else open_store(address, size, listener, TIMEOUT)


def _run_processes(recipe: Recipe) -> None:
    """Run every rank in a process of its own and wait for all."""
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = []
    reports: list[Connection] = []
    told = threading.Event()

    def pass_on() -> None:
        told.set()
        for process in processes:
            process.terminate()

    with tempfile.TemporaryDirectory() as directory, listening(pass_on):
        meeting_point = Path(directory) / "meeting"
        try:
            for rank in range(recipe.pretrain.processes):
                report, sender = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_run_rank, args=(recipe, rank, meeting_point, sender), name=f"rank{rank}"
                )
                _start(process)
                sender.close()
                processes.append(process)
                reports.append(report)
            if told.is_set():  # whoever was just being started has not heard of it
                pass_on()
            _wait_for_all(processes, reports)
        finally:
            for process in processes:  # at once: who sees another one go would speak of it
                process.kill()
            for process in processes:
                process.join()


def _start(process: BaseProcess) -> None:
    """Start a rank that ignores Ctrl-C from its first moment: its parent, who gets it, ends it."""
    if threading.current_thread() is not threading.main_thread():
        process.start()
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which children inherit
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _wait_for_all(processes: Sequence[BaseProcess], reports: Sequence[Connection]) -> None:
    running, preempted = dict(enumerate(processes)), False
    while running:
        sentinels = {process.sentinel: rank for rank, process in running.items()}
        for rank in sorted(sentinels[ended] for ended in wait(list(sentinels))):  # type: ignore[index]
            process = running.pop(rank)
            process.join()
            preempted |= process.exitcode == EXIT_STATUS
            if process.exitcode == -signal.SIGTERM:
                # It does not listen while it imports; the others may wait for it at their meeting.
                raise PreemptedError(
                    f"told to end while rank {rank} was starting: no step is lost, the same "
                    "command goes on"
                )
            if process.exitcode not in (0, EXIT_STATUS):
                raise _failure(rank, process, reports[rank])
    if preempted:
        raise PreemptedError(reports[0].recv())


def _failure(rank: int, process: BaseProcess, report: Connection) -> Exception:
    """Turn the end of a rank into the error to show."""
    try:
        is_mistake, message = report.recv()
    except EOFError:
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit status {code}, its error is above"
        return RankFailedError(f"rank {rank} ended with {how}; the other ranks were ended too")
    return ValueError(message) if is_mistake else RankFailedError(message)


def _run_rank(recipe: Recipe, rank: int, meeting_point: Path, report: Connection) -> None:
    """Be one rank: what a spawned process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a parent whose main thread did not start us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    keep_freed_memory()
    configure_logging(logging.INFO if rank == 0 else logging.ERROR)
    with failing_at_once():
        try:
            size = recipe.pretrain.processes
            with listening():
                train(recipe, join(rank, size, rank, meeting_point), Notice())
        except (ValueError, OSError, CheckpointFailedError) as error:
            report.send((isinstance(error, ValueError), str(error)))
            sys.exit(1)
        except PreemptedError as error:
            report.send(str(error))
            sys.exit(EXIT_STATUS)


@contextmanager
def failing_at_once() -> Iterator[None]:
    """End the process of a rank that fails right here; what its group waits for may never come.

    The other ranks are in a collective, perhaps, and wait for this one. Ranks that are preempted or
    complete end together, and leave the group.
    """
    try:
        yield
    except BaseException as error:
        status = error.code if isinstance(error, SystemExit) else 1
        is_alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if is_alone or status in (None, 0, EXIT_STATUS):
            raise
        if not isinstance(error, SystemExit):
            sys.excepthook(type(error), error, error.__traceback__)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def configure_logging(level: int) -> None:
    """Send our log lines to stderr, with the time."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pretrain").setLevel(level)
