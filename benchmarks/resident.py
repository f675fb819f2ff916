"""Memory that this process holds or has held, as Linux tells it."""

import re
from pathlib import Path
from typing import Literal


def resident(field: Literal["VmRSS", "VmHWM"]) -> float:
    """Return what is resident now (VmRSS) or was at most (VmHWM), MiB."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
