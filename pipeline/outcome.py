"""Outcome: what a command that writes a store hands back."""

from typing import NamedTuple

from corpus.snapshots import Snapshot


class Outcome(NamedTuple):
    """A complete snapshot and what it took to get there now."""

    snapshot: Snapshot
    tasks_run: int
    elapsed_seconds: float
    stage_seconds: dict[str, float]
