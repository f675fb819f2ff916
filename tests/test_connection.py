"""A cluster that is not there, and a Ray that does not start, are told in one line."""

import os
import socket
from typing import Any

import pytest

from corpus.connection import connect, prepare_environment


class Ray:
    """Notes how it was started, or fails as it is told."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.options: dict[str, Any] = {}

    def init(self, **options: Any) -> None:  # noqa: ANN401 - as Ray's
        self.options = options
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_without_an_address_a_ray_is_started_here() -> None:
    ray = Ray()
    assert connect(ray, 3, 100, log_to_driver=False)
    assert {
        "address": "local",
        "num_cpus": 3,
        "log_to_driver": False,
    }.items() <= ray.options.items()
    assert not ray.options["include_dashboard"]


def test_a_ray_that_does_not_start_is_told_in_one_line() -> None:
    ray = Ray(RuntimeError("The current node timed out during startup.\nand so on"))
    with pytest.raises(OSError, match=r"^Ray did not start on this machine \(The .* startup\.\)"):
        connect(ray, 1, 100)
    with pytest.raises(OSError, match=r"machine \(KeyError\): where it is busy"):
        connect(Ray(KeyError()), 1, 100)
    with pytest.raises(ValueError, match="no such option"):  # is ours to mend
        connect(Ray(ValueError("no such option")), 1, 100)


def test_an_address_where_nobody_listens_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Ray()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(OSError, match=f"RAY_ADDRESS is {address}, and there is no Ray to be"):
            connect(ray, 1, 100)
        assert ray.options == {}
        server.listen()
        assert not connect(ray, 1, 100)
    assert "address" not in ray.options and "num_cpus" not in ray.options


@pytest.mark.parametrize("address", ["auto", "ray://host:10001", "http://host:8265", "nonsense"])
def test_other_forms_of_an_address_are_for_ray_to_judge(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    ray = Ray(ConnectionError("what Ray says"))
    with pytest.raises(ConnectionError, match=r"^what Ray says$"):
        connect(ray, 1, 100)


def test_a_cluster_of_another_version_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    ray = Ray(RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.0"))
    with pytest.raises(
        OSError, match=r"^RAY_ADDRESS is auto: Version mismatch: The cluster was st"
    ):
        connect(ray, 1, 100)


def test_the_environment_keeps_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    prepare_environment()

    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "1"
    assert os.environ.pop("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == "0"
