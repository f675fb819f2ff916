"""Holds a worker at the moment before it commits a record, so that a test can kill it there.

Python runs this file at its start where its directory is in PYTHONPATH. MASKLINE_HOLD names a
directory. Its `stages.json` maps a stage to how many of its records have to stand before one is
held. Only the first is held; it leaves its process id in the directory, under the stage's name.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def hold(event: str, arguments: tuple[Any, ...]) -> None:
    """Stop this process for good where it is about to commit the record to be held."""
    if event != "os.link":
        return
    record = Path(arguments[1])
    stage = record.parent.name
    if record.parent.parent.name != "records":
        return
    directory = Path(os.environ["MASKLINE_HOLD"])
    after = json.loads((directory / "stages.json").read_text()).get(stage)
    if after is None or len(list(record.parent.glob("*.json"))) < after:
        return
    try:
        handle = os.open(directory / stage, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(handle, str(os.getpid()).encode())
    os.close(handle)
    time.sleep(3600)


if "MASKLINE_HOLD" in os.environ:
    sys.addaudithook(hold)
