"""A Ray that commands share, and one of simulated machines that come and go."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
NODE: dict[str, Any] = {"object_store_memory": 100 * 2**20, "include_dashboard": False}


@contextmanager
def one_node(cpus: int, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Start a Ray that commands may share; give what lets them. Workers have its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # Workers start when there is work, not as many as there are cores with the first command.
        patch.setenv("RAY_prestart_worker_first_driver", "0")
        cluster = _start(patch, num_cpus=cpus, include_log_monitor=False, no_monitor=True)
    yield _LOOPBACK | {"RAY_ADDRESS": cluster.address}
    cluster.shutdown()


@contextmanager
def small_nodes(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> Iterator[Any]:
    """Start a head that runs nothing and nodes of one core."""
    cluster = _start(monkeypatch, num_cpus=0)
    for _ in range(count):
        cluster.add_node(num_cpus=1, **NODE)
    yield cluster
    cluster.shutdown()


def _start(patch: pytest.MonkeyPatch, **head: Any) -> Any:  # noqa: ANN401 - Ray's
    for name, value in _LOOPBACK.items():
        patch.setenv(name, value)
    from ray.cluster_utils import Cluster  # noqa: PLC0415 - after the environment is set

    return Cluster(initialize_head=True, head_node_args=NODE | head)
