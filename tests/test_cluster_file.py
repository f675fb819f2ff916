"""cluster.yaml is checked without a cluster, by the functions that `ray up` itself begins with."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER_FILE = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text())
    return loaded


def check(cluster: dict[str, Any]) -> dict[str, Any]:
    """Fill in the defaults and validate, as `ray up` does before it touches a machine."""
    prepared: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    prepared = check(cluster)
    (node_type,) = prepared["available_node_types"].values()
    assert node_type["min_workers"] == cluster["max_workers"] == 3


def test_an_unknown_key_is_rejected(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="max_worker"):
        check({**cluster, "max_worker": 3})


def test_a_wrong_type_is_rejected(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="one"):
        check({**cluster, "setup_commands": [["one"]]})


def test_every_node_asks_for_the_token_and_reports_no_usage(cluster: dict[str, Any]) -> None:
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = [command for command in cluster[commands] if "ray start" in command]
        assert "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-" in start
        assert "RAY_USAGE_STATS_ENABLED=0" in start


def test_the_dashboard_listens_on_loopback_only(cluster: dict[str, Any]) -> None:
    (start,) = [line for line in cluster["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in CLUSTER_FILE.read_text()
