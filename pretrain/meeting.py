"""Where the ranks of several processes meet, on no more interfaces than they need.

torch's own TCP store listens on every interface. Here the first rank binds a socket to the one
address that the others know it by and hands it over; gloo and NCCL are told the interface of that
address. So a run on one machine, whose address is 127.0.0.1, listens on loopback only.
"""

import os
import socket
from datetime import timedelta

import psutil
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]


def listen(host: str, port: int) -> socket.socket | None:
    """Bind a socket to one address of this machine; None where it has no such address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError:
        return None


def open_store(
    address: tuple[str, int], size: int, listener: socket.socket | None, timeout: timedelta
) -> Store:
    """Open the store of a group; the rank with the listener serves it."""
    host, port = address
    return TCPStore(
        host,
        port,
        size,
        is_master=listener is not None,
        timeout=timeout,
        master_listen_fd=None if listener is None else listener.detach(),
    )


def use_interface(host: str) -> None:
    """Let gloo and NCCL talk over the interface that has this address, where none is chosen."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == host for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
