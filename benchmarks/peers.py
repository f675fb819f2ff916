"""Other tools beside ours: their code is run by the interpreter of an environment of their own.

The project does not install them. A peer's code gets its arguments in `sys.argv`, and its result is
the last line that it prints, as JSON; what it writes to standard error is shown only if it fails.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run_peer(
    python: str, code: str, *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> Any:  # noqa: ANN401 - each peer's own JSON
    """Run a peer's code with arguments, and more environment if given; return what it printed."""
    done = subprocess.run(
        [python, "-c", code, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
    )
    if done.returncode:
        raise RuntimeError(f"the peer failed with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
