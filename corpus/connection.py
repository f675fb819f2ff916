"""How Ray is reached: the cluster that RAY_ADDRESS names, or a Ray of our own on this machine.

Ray itself is handed in by those who import it. What Ray raises where it cannot be reached, or does
not start, becomes an `OSError` or `ValueError` of one line.
"""

import logging
import os
import re
import socket
from typing import Any

# What Ray waits for a cluster is minutes, while whoever mistyped the address waits too; a head that
# is only busy answers sooner. Guess.
_CONNECT_SECONDS = 10.0
_HOST_AND_PORT = re.compile(r"\[?([\w.:-]+?)\]?:(\d+)")


def prepare_environment() -> None:
    """Set what Ray reads while it is imported: no usage reports, and its own Ray on loopback."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not os.environ.get("RAY_ADDRESS"):
        # Despite its name, what makes an embedded Ray listen on loopback only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def connect(
    ray: Any,  # noqa: ANN401 - the module itself
    cpus: int,
    object_store_bytes: int,
    **options: Any,  # noqa: ANN401 - Ray's
) -> bool:
    """Join the cluster, or start a Ray here for so many tasks; return whether it is our own.

    `OSError` says which of the two failed.
    """
    options |= {"logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        _check_address(address)
        try:
            ray.init(**options)
        except RuntimeError as error:  # another version of Ray or Python there, say
            raise OSError(f"RAY_ADDRESS is {address}: {_first_line(error)}") from error
        return False
    try:
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=object_store_bytes,
            **options,
        )
    except ValueError:
        raise
    except Exception as error:  # Ray's own are no finer
        raise OSError(
            f"Ray did not start on this machine ({_first_line(error)}): where it is busy or short "
            "of memory, try again later; the logs are in /tmp/ray/session_latest/logs"
        ) from error
    return True


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _check_address(address: str) -> None:
    """Refuse an address where nobody listens; who does, and other forms, are Ray's to judge."""
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), _CONNECT_SECONDS).close()
    except OSError as error:
        raise OSError(
            f"RAY_ADDRESS is {address}, and there is no Ray to be reached ({error}): start it, "
            "name the address of its head, or unset RAY_ADDRESS for a Ray on this machine"
        ) from error
