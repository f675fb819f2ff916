"""Firings of a schedule: the lines that `schedule` prints, run as cron and a RayCronJob run them.

Only the clock is not the machine's own, as each firing has a minute to itself.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from corpus_helpers import REPOSITORY, environment, hold, wait_for_held, write_corpus
from test_schedule import as_cron_runs_it, split

from corpus.snapshots import Snapshot, list_snapshots, newest_label, open_snapshot

pytestmark = pytest.mark.slow

# Gives the real date at another time: FIRED, as GNU date reads it.
DATE = """#!/bin/sh
exec /usr/bin/env -u PYTHONPATH {date} -d "$FIRED" "$@"
"""
PYTHON = """#!/bin/sh
exec {python} "$@"
"""


class Scheduled(NamedTuple):
    """A corpus of which `later` is not delivered yet, its store, and the commands to run."""

    directory: Path
    later: Path
    store: str
    crontab: str
    entrypoint: str

    def start(self, command: str, fired: str, extra: dict[str, str] | None = None) -> "Running":
        """Run a command in a shell, as at this minute."""
        bin_ = self.directory / "bin"
        variables = environment() | {"PATH": f"{bin_}:/usr/bin:/bin", "FIRED": f"{fired} UTC"}
        return subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=REPOSITORY if command == self.entrypoint else "/",
            env=variables | (extra or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fire(self, command: str, fired: str) -> tuple[int, str, str]:
        """Run a command to its end; return its exit status, output and errors."""
        running = self.start(command, fired)
        out, err = running.communicate(timeout=900)
        return running.returncode, out, err

    @property
    def newest(self) -> Snapshot:
        return open_snapshot(self.store)


Running = subprocess.Popen[str]


@pytest.fixture
def scheduled(tmp_path: Path) -> Scheduled:
    recipe = write_corpus(tmp_path, files=4, documents=40)
    later = tmp_path / "later"
    later.mkdir()
    for path in sorted((tmp_path / "raw" / "news").iterdir()):
        shutil.move(path, later)
    fields = yaml.safe_load(recipe.read_text())
    fields["sources"] = [{"name": "books", "paths": [str(tmp_path / "raw" / "books")]}]
    recipe.write_text(yaml.safe_dump(fields))
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    date = shutil.which("date")
    assert date is not None
    for name, script in (("date", DATE.format(date=date)), ("python", PYTHON)):
        (bin_ / name).write_text(script.format(python=sys.executable))
        (bin_ / name).chmod(0o755)
    printed = subprocess.run(
        [sys.executable, "-m", "pipeline", "schedule", str(recipe), "--cron", "17 3 * * 1"],
        cwd=REPOSITORY, env=environment(), check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    entry, manifest = split(printed.splitlines())
    entrypoint = manifest["spec"]["jobTemplate"]["entrypoint"]
    return Scheduled(tmp_path, later, fields["store"], as_cron_runs_it(entry), entrypoint)


def deliver_more(scheduled: Scheduled) -> None:
    """Put one of the later files where the recipe looks."""
    first = min(scheduled.later.iterdir())
    shutil.move(first, scheduled.directory / "raw" / "books")


def test_three_firings(scheduled: Scheduled) -> None:
    status, out, err = scheduled.fire(scheduled.crontab, "2026-11-23 03:17")
    assert status == 0, err
    assert " tasks in " in out
    first = scheduled.newest
    assert (first.label, first.deliveries) == ("2026-11-23t0317", ("2026-11-23t0317",))

    # Nothing new: no snapshot, and that is no failure.
    status, out, err = scheduled.fire(scheduled.entrypoint, "2026-11-30 03:17")
    assert (status, out.splitlines()[0]) == (0, "nothing to do"), err
    assert "2026-11-30t0317 brings no new input: no snapshot is made" in err
    assert list_snapshots(scheduled.store) == ["2026-11-23t0317"]

    # New input, and a second firing while the first is at work: it ends with the first one's name.
    deliver_more(scheduled)
    held = scheduled.directory / "held"
    slow = scheduled.start(scheduled.crontab, "2026-12-07 03:17", hold(held, {"encode": 0}))
    worker = wait_for_held(slow, held, "encode")
    status, out, err = scheduled.fire(scheduled.entrypoint, "2026-12-14 03:17")
    assert (status, out) == (2, "")
    assert f"{scheduled.store} is held by refresh of 2026-12-07t0317" in err
    assert newest_label(scheduled.store) == "2026-11-23t0317"
    os.kill(worker, signal.SIGKILL)  # what holds it up; the task is run again
    _, err = slow.communicate(timeout=900)
    assert slow.returncode == 0, err
    second = scheduled.newest
    assert second.deliveries == ("2026-11-23t0317", "2026-12-07t0317")
    assert {each.snapshot for each in second.inputs} == set(second.deliveries)
    assert set(first.inputs) < set(second.inputs)
