"""A Ray cluster of simulated machines, for the tests that take one away."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a head that runs nothing and two nodes of one core; on loopback."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - after the environment is set

    common: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0} | common)
    cluster.add_node(num_cpus=1, **common)
    cluster.add_node(num_cpus=1, **common)
    yield cluster
    cluster.shutdown()
