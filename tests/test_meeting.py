"""The store of a group listens on the one address it is known by."""

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import psutil
import pytest

from pretrain.meeting import listen, open_store, use_interface

PATIENCE = timedelta(seconds=20)


def test_the_store_listens_on_its_address_only() -> None:
    listener = listen("127.0.0.1", 0)
    assert listener is not None
    address = listener.getsockname()
    with ThreadPoolExecutor() as threads:  # each waits for the other
        serving = threads.submit(open_store, address, 2, listener, PATIENCE)
        second = open_store(address, 2, None, PATIENCE)
        first = serving.result()
    found = [
        connection.laddr.ip
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == address[1]
    ]
    assert found == ["127.0.0.1"]
    first.set("a", "1")
    assert second.get("a") == b"1"


def test_an_address_of_another_machine_is_told_from_ours() -> None:
    assert listen("192.0.2.1", 0) is None  # RFC 5737: an address that nobody has


def test_the_interface_of_an_address_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    use_interface("192.0.2.1")
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    use_interface("127.0.0.1")
    loopback = os.environ["GLOO_SOCKET_IFNAME"]
    assert "127.0.0.1" in {each.address for each in psutil.net_if_addrs()[loopback]}
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "chosen")
    use_interface("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == "chosen"
