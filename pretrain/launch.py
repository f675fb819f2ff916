"""Starts the ranks of a training run: one in this process, or several on this machine.

Under torchrun or the deepspeed launcher (MASTER_ADDR is set) this process is one rank of theirs.
Otherwise ranks meet through a file and talk over the loopback interface only: a TCP rendezvous
would listen on every interface. With GPUs they talk by NCCL, without by gloo.

The first rank that fails ends all others, and its message is the one that is shown. Ranks watch the
process that started them and end with it, however it ends.
"""

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import distributed

from corpus.recipe import Recipe
from pretrain.train import is_complete, run_directory, train
from pretrain.world import World

logger = logging.getLogger(__name__)

# The longest that one rank may wait for another: rank 0 writes checkpoints while the others wait.
_TIMEOUT = timedelta(minutes=30)


class RankFailedError(RuntimeError):
    """A rank ended badly; the message holds its traceback or its signal."""


def run_training(recipe: Recipe) -> None:
    """Train as the recipe says, on as many ranks as it says."""
    if is_complete(recipe):
        logger.info(
            "%s is complete: %s steps", run_directory(recipe), f"{recipe.pretrain.max_steps:,}"
        )
    elif "MASTER_ADDR" in os.environ:
        with joined(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) as world:
            train(recipe, world)
    elif recipe.pretrain.processes == 1:
        with tempfile.TemporaryDirectory() as directory:
            meeting_point = Path(directory) / "meeting"
            with joined(0, 1, meeting_point) as world:
                train(recipe, world)
    else:
        _run_processes(recipe)


@contextmanager
def joined(rank: int, size: int, meeting_point: Path | None = None) -> Iterator[World]:
    """Join the process group: through a file, or by the launcher's environment without one."""
    has_gpu = torch.cuda.is_available()
    local_rank = rank if meeting_point else int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if has_gpu else torch.device("cpu")
    if has_gpu:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"rank {rank} wants GPU {local_rank}, this machine has "
                f"{torch.cuda.device_count()}: lower pretrain.processes"
            )
        torch.cuda.set_device(device)
    backend = "nccl" if has_gpu else "gloo"
    if meeting_point:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
        # DeepSpeed reads it to pick the device.
        os.environ["LOCAL_RANK"] = str(local_rank)
        store = distributed.FileStore(str(meeting_point), size)  # type: ignore[attr-defined]
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=size, timeout=_TIMEOUT
        )
    else:
        distributed.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield World(rank, size, device)
    finally:
        distributed.destroy_process_group()


def _run_processes(recipe: Recipe) -> None:
    """Run every rank in a process of its own and wait for all."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as directory:
        meeting_point = Path(directory) / "meeting"
        processes: list[BaseProcess] = []
        reports: list[Connection] = []
        try:
            for rank in range(recipe.pretrain.processes):
                report, sender = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_run_rank, args=(recipe, rank, meeting_point, sender), name=f"rank{rank}"
                )
                process.start()
                sender.close()
                processes.append(process)
                reports.append(report)
            _wait_for_all(processes, reports)
        finally:
            for process in processes:
                process.kill()
                process.join()


def _wait_for_all(processes: Sequence[BaseProcess], reports: Sequence[Connection]) -> None:
    running = dict(enumerate(processes))
    while running:
        ended = wait([process.sentinel for process in running.values()])
        for rank, process in list(running.items()):
            if process.sentinel in ended:
                process.join()
                if process.exitcode != 0:
                    raise _failure(rank, process, reports[rank])
                del running[rank]


def _failure(rank: int, process: BaseProcess, report: Connection) -> Exception:
    """Turn the end of a rank into the error to show."""
    try:
        is_user_error, message = report.recv()
    except EOFError:
        return RankFailedError(f"rank {rank} ended with {_describe_exit(process.exitcode)}")
    return ValueError(message) if is_user_error else RankFailedError(f"rank {rank}:\n{message}")


def _describe_exit(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"


def _run_rank(recipe: Recipe, rank: int, meeting_point: Path, report: Connection) -> None:
    """Be one rank: what a spawned process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends us
    threading.Thread(target=_end_with_parent, daemon=True).start()
    configure_logging(logging.INFO if rank == 0 else logging.ERROR)
    try:
        with joined(rank, recipe.pretrain.processes, meeting_point) as world:
            train(recipe, world)
    except ValueError as error:
        report.send((True, str(error)))
        sys.exit(1)
    except BaseException:
        report.send((False, traceback.format_exc()))
        raise


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def configure_logging(level: int) -> None:
    """Send our log lines to stderr, with the time."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("pretrain").setLevel(level)
