"""Runs a function on several ranks that meet as those of a run do."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kill_helpers import prepare_ranks

from pretrain.launch import join
from pretrain.world import World


def run_ranks(size: int, meeting: Path, function: Callable[..., Any], *values: Any) -> list[Any]:  # noqa: ANN401
    """Call `function(world, *values)` in a process of its own a rank; give what they return."""
    context = prepare_ranks()
    results = context.Queue()
    arguments = (size, meeting, results, function, values)
    ranks = [context.Process(target=_run_rank, args=(rank, *arguments)) for rank in range(size)]
    for process in ranks:
        process.start()
    found = dict(results.get(timeout=240) for _ in ranks)
    for process in ranks:
        process.join()
        assert process.exitcode == 0
    return [found[rank] for rank in range(size)]


def _run_rank(
    rank: int,
    size: int,
    meeting: Path,
    results: "multiprocessing.Queue[tuple[int, Any]]",
    function: Callable[..., Any],
    values: tuple[Any, ...],
) -> None:
    world: World = join(rank, size, rank, meeting)
    results.put((rank, function(world, *values)))
