"""A Ray cluster of simulated machines, for the tests in which they come and go."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NODE: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@contextmanager
def small_nodes(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> Iterator[Any]:
    """Start a head that runs nothing and nodes of one core; on loopback."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - after the environment is set

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0} | NODE)
    for _ in range(count):
        cluster.add_node(num_cpus=1, **NODE)
    yield cluster
    cluster.shutdown()
