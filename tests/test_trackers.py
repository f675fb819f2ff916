"""Trackers, against small stand-ins for the three packages and TensorBoard itself if installed."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pretrain_helpers import make_recipe, write_snapshot

from corpus.training import Pretrain
from pretrain.launch import run_training
from pretrain.metrics import read_metrics
from pretrain.trackers import (
    Patient,
    check_trackers,
    open_trackers,
    shown_settings,
    without_credentials,
)


class FakeTensorBoard(ModuleType):
    def __init__(self) -> None:
        super().__init__("torch.utils.tensorboard")
        self.opened: list[tuple[str, int]] = []
        self.scalars: list[tuple[str, float, int]] = []
        self.closed = 0

    def SummaryWriter(self, log_dir: str, purge_step: int) -> Any:  # noqa: ANN401
        self.opened.append((log_dir, purge_step))
        return SimpleNamespace(
            add_scalar=lambda name, value, step: self.scalars.append((name, value, step)),
            close=self._close,
        )

    def _close(self) -> None:
        self.closed += 1


class FakeWandb(ModuleType):
    def __init__(self) -> None:
        super().__init__("wandb")
        self.inits: list[dict[str, Any]] = []
        self.rows: list[dict[str, float]] = []
        self.finished = 0
        self.Settings = dict

    def init(self, **values: Any) -> Any:  # noqa: ANN401
        self.inits.append(values)
        return SimpleNamespace(
            id=values["id"] or "made-by-wandb",
            define_metric=lambda *_, **__: None,
            log=self.rows.append,
            finish=self._finish,
        )

    def _finish(self) -> None:
        self.finished += 1


class MlflowError(Exception):
    error_code = "INTERNAL_ERROR"


class NoSuchRunError(MlflowError):
    error_code = "RESOURCE_DOES_NOT_EXIST"


class FakeMlflow(ModuleType):
    """A module that is its own client, with one experiment that is not there at first."""

    def __init__(self, is_broken: bool = False) -> None:
        super().__init__("mlflow")
        self.exceptions = SimpleNamespace(MlflowException=MlflowError)
        self.entities = SimpleNamespace(Metric=lambda *values: values)
        self.calls = 0
        self.is_broken = is_broken
        self.has_no_room = False
        self.uris: list[str] = []
        self.experiments: dict[str, str] = {}
        self.runs: list[str] = []
        self.numbers: list[tuple[str, str, float, int]] = []
        self.tags: dict[str, Any] = {}
        self.ended: list[str] = []

    def MlflowClient(self, tracking_uri: str) -> "FakeMlflow":
        if self.is_broken:
            raise MlflowError(f"no store at {tracking_uri}")
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> Any:  # noqa: ANN401
        known = name in self.experiments
        return SimpleNamespace(experiment_id=self.experiments[name]) if known else None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self.experiments[name] = f"experiment at {artifact_location}"
        return self.experiments[name]

    def create_run(self, experiment: str, run_name: str) -> Any:  # noqa: ANN401
        self.runs.append(f"{experiment}, {run_name}")
        return SimpleNamespace(info=SimpleNamespace(run_id=f"run {len(self.runs)}"))

    def get_run(self, run: str) -> None:
        if run not in {f"run {number + 1}" for number in range(len(self.runs))}:
            raise NoSuchRunError(run)

    def set_tag(self, run: str, name: str, value: Any) -> None:  # noqa: ANN401
        if self.has_no_room:
            raise MlflowError("https://me:secret@host has no room")
        self.tags[name] = value

    def log_batch(self, run: str, metrics: list[tuple[str, float, int, int]]) -> None:
        self.calls += 1
        self.numbers += [(run, name, value, step) for name, value, _, step in metrics]

    def set_terminated(self, run: str) -> None:
        self.ended.append(run)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    # What the code sets for good is taken back after the test.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


def put(monkeypatch: pytest.MonkeyPatch, module: Any) -> Any:  # noqa: ANN401
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_tensorboard_voids_the_steps_that_are_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = put(monkeypatch, FakeTensorBoard())
    (tracker,) = open_trackers(Pretrain(trackers=("tensorboard",)), str(tmp_path), 7)
    tracker.log(7, {"loss": 1.5})
    tracker.close()
    assert fake.opened == [(str(tmp_path / "tensorboard"), 7)]
    assert (fake.scalars, fake.closed) == ([("loss", 1.5, 7)], 1)


def test_wandb_is_offline_and_keeps_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = put(monkeypatch, FakeWandb())
    config = Pretrain(trackers=("wandb",), run=str(tmp_path))
    for first_step in (0, 5):
        (tracker,) = open_trackers(config, str(tmp_path), first_step)
        tracker.log(first_step, {"loss": 2.0})
        tracker.close()
    assert [values["mode"] for values in fake.inits] == ["offline", "offline"]
    assert [values["id"] for values in fake.inits] == [None, "made-by-wandb"]
    assert fake.rows == [{"step": 0, "loss": 2.0}, {"step": 5, "loss": 2.0}]
    assert fake.finished == 2
    assert fake.inits[0]["settings"]["console"] == "off"


def test_the_environment_decides_whether_wandb_is_online(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = put(monkeypatch, FakeWandb())
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    (tracker,) = open_trackers(Pretrain(trackers=("wandb",)), str(tmp_path), 0)
    tracker.log(0, {"loss": 2.0})
    assert (fake.inits[0]["mode"], fake.inits[0]["project"]) == ("online", "ours")


def test_mlflow_writes_under_the_run_and_keeps_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = put(monkeypatch, FakeMlflow())
    for first_step in (0, 5):
        (tracker,) = open_trackers(Pretrain(trackers=("mlflow",)), str(tmp_path), first_step)
        tracker.log(first_step, {"loss": 2.0})
        tracker.close()
    assert set(fake.uris) == {f"sqlite:///{tmp_path}/mlflow.db"}
    assert fake.runs == [f"experiment at {tmp_path}/mlflow-artifacts, {tmp_path.name}"]
    assert fake.numbers == [("run 1", "loss", 2.0, 0), ("run 1", "loss", 2.0, 5)]
    assert fake.ended == ["run 1", "run 1"]
    assert fake.tags["preset"] == "base"


def test_mlflow_gets_a_step_in_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = put(monkeypatch, FakeMlflow())
    (tracker,) = open_trackers(Pretrain(trackers=("mlflow",)), str(tmp_path), 0)
    tracker.log(3, {"loss": 2.0, "tokens": 5.0})
    assert fake.calls == 1
    assert fake.numbers == [("run 1", "loss", 2.0, 3), ("run 1", "tokens", 5.0, 3)]


class Unsteady:
    """A tracker whose calls fail while it is down."""

    def __init__(self) -> None:
        self.is_down, self.steps, self.calls = False, list[int](), 0

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.calls += 1
        self._answer()
        self.steps.append(step)

    def close(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.is_down:
            raise MlflowError("https://me:secret@host answers 503")


def test_a_tracker_that_fails_is_named_once_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pretrain.trackers._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    unsteady = Unsteady()
    tracker = Patient("mlflow", lambda: unsteady)
    for step in range(6):
        unsteady.is_down = step in {2, 3}
        tracker.log(step, {"loss": 1.0})
    assert unsteady.steps == [0, 1, 4, 5]
    unsteady.is_down = True
    tracker.close()
    (message,) = caplog.messages
    start = "tracker mlflow failed (MlflowError: https://host answers 503): training goes on"
    assert message.startswith(start)


def test_a_tracker_that_failed_is_left_in_peace_for_a_while() -> None:
    unsteady = Unsteady()
    unsteady.is_down = True
    tracker = Patient("mlflow", lambda: unsteady)
    for step in range(6):
        tracker.log(step, {"loss": 1.0})
    assert unsteady.calls == 1


def test_a_tracker_rests_ten_times_as_long_as_it_held_up_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, called = [0.0], list[float]()

    def give_up_after_four_minutes() -> Unsteady:
        called.append(now[0])
        now[0] += 240
        raise MlflowError

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    tracker = Patient("mlflow", give_up_after_four_minutes)
    for step in range(6):
        tracker.log(step, {"loss": 1.0})
        now[0] += 800
    assert called == [0, 240 + 2400]


def test_a_tracker_that_cannot_be_opened_is_opened_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pretrain.trackers._PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host")
    fake = put(monkeypatch, FakeMlflow(is_broken=True))
    (tracker,) = open_trackers(Pretrain(trackers=("mlflow",)), str(tmp_path), 0)
    tracker.log(0, {"loss": 1.0})
    fake.is_broken, fake.has_no_room = False, True
    tracker.log(1, {"loss": 1.0})
    fake.has_no_room = False
    tracker.log(2, {"loss": 1.0})
    tracker.close()
    assert fake.numbers == [("run 1", "loss", 1.0, 2)]
    assert fake.ended == ["run 1"]
    (message,) = caplog.messages
    assert message.startswith("tracker mlflow failed (MlflowError: no store at https://host): tra")


def test_a_tracker_that_was_never_opened_is_not_closed(caplog: pytest.LogCaptureFixture) -> None:
    Patient("mlflow", Unsteady).close()
    assert caplog.messages == []


def test_a_run_that_mlflow_does_not_know_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake = put(monkeypatch, FakeMlflow())
    (tmp_path / "mlflow-run-id").write_text("of another server")
    (tracker,) = open_trackers(Pretrain(trackers=("mlflow",)), str(tmp_path), 5)
    tracker.log(5, {"loss": 1.0})
    assert fake.numbers == [("run 1", "loss", 1.0, 5)]
    assert (tmp_path / "mlflow-run-id").read_text() == "run 1"
    assert caplog.messages == ["MLflow does not know run of another server, a new one begins there"]


def test_an_mlflow_that_does_not_answer_keeps_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = put(monkeypatch, FakeMlflow())
    (tmp_path / "mlflow-run-id").write_text("run 1")

    def fail(run: str) -> None:
        raise MlflowError(run)

    fake.get_run = fail
    (tracker,) = open_trackers(Pretrain(trackers=("mlflow",)), str(tmp_path), 5)
    tracker.log(5, {"loss": 1.0})
    assert fake.runs == []
    assert (tmp_path / "mlflow-run-id").read_text() == "run 1"


def test_a_missing_database_library_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(monkeypatch, FakeMlflow(is_broken=True))
    (tracker,) = open_trackers(Pretrain(trackers=("mlflow",)), str(tmp_path), 0)
    tracker.log(0, {"loss": 1.0})
    assert "its local database needs the whole package `mlflow`" in caplog.text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no http://me:se@cret@host:1/a, no b", "no http://host:1/a, no b"),
        ("https://host/a.jsonl?token=b c", "https://host/a.jsonl?... c"),
        ("sqlite://me:a#b@host/d@1", "sqlite://host/d@1"),
        ("https://me:se?cret@host/a", "https://"),
        ("https://host?to=a@b&key=c", "https://"),
        ("hf://datasets/we/it@main/a.csv, me@host", "hf://datasets/we/it@main/a.csv, me@host"),
    ],
)
def test_credentials_are_taken_out_of_urls(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "torch.utils.tensorboard" if name == "tensorboard" else name
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"names {name}, which is not installed: .pip install"):
        check_trackers([name])


def test_paths_and_addresses_are_not_shown() -> None:
    shown = shown_settings(Pretrain(run="/home/me/run", preset="small"))
    assert shown["preset"] == "small"
    assert shown["learning_rate"] == 6e-4
    assert "run" not in shown


def test_a_missing_package_stops_a_run_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    write_snapshot(tmp_path / "store")
    with pytest.raises(ValueError, match="wandb, which is not installed"):
        run_training(make_recipe(tmp_path / "store", tmp_path / "run", trackers=["wandb"]))
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_a_run_hands_on_the_numbers_of_its_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = put(monkeypatch, FakeWandb())
    write_snapshot(tmp_path / "store")
    run_training(make_recipe(tmp_path / "store", tmp_path / "run", trackers=["wandb"]))
    lines = read_metrics(str(tmp_path / "run"))
    assert len(lines) == len(fake.rows) == 6
    for line, row in zip(lines, fake.rows, strict=True):
        assert row == {
            name: value for name, value in line.items() if isinstance(value, int | float)
        }
        assert row["flops"] > 0
        assert 0 <= row["data_wait_share"] <= 1
    assert str(tmp_path) not in str(fake.inits[0]["config"])


def test_a_run_goes_on_where_its_trackers_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wandb = put(monkeypatch, FakeWandb())
    put(monkeypatch, FakeMlflow(is_broken=True))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:hunter2@host")

    def refuse(**_: Any) -> None:  # noqa: ANN401
        raise RuntimeError("No API key configured")

    wandb.init = refuse
    write_snapshot(tmp_path / "store")
    names = ["wandb", "mlflow"]
    run_training(make_recipe(tmp_path / "store", tmp_path / "run", trackers=names))
    assert len(read_metrics(str(tmp_path / "run"))) == 6
    told = [line.partition(")")[0] for line in caplog.messages if line.startswith("tracker ")]
    assert told == [
        "tracker wandb failed (RuntimeError: No API key configured",
        "tracker mlflow failed (MlflowError: no store at http://host",
    ]
    assert "hunter2" not in caplog.text


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_real_event_files_hold_the_curve(tmp_path: Path) -> None:
    loader: Any = importlib.import_module(
        "tensorboard.backend.event_processing.event_accumulator"
    ).EventAccumulator
    for first_step in (0, 2):  # the second run takes steps 2 and 3 again
        (tracker,) = open_trackers(Pretrain(trackers=("tensorboard",)), str(tmp_path), first_step)
        for step in range(first_step, 4):
            tracker.log(step, {"loss": float(step + 10 * first_step)})
        tracker.close()
    events = loader(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(0, 0), (1, 1), (2, 22), (3, 23)]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_real_wandb_stays_offline(tmp_path: Path) -> None:
    (tracker,) = open_trackers(Pretrain(trackers=("wandb",)), str(tmp_path), 0)
    tracker.log(0, {"loss": 1.0})
    tracker.close()
    assert list((tmp_path / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
@pytest.mark.filterwarnings("ignore")  # its database library deprecates what it uses itself
def test_real_mlflow_keeps_the_curve(tmp_path: Path) -> None:
    for first_step in (0, 2):
        (tracker,) = open_trackers(Pretrain(trackers=("mlflow",)), str(tmp_path), first_step)
        for step in range(first_step, first_step + 2):
            tracker.log(step, {"loss": float(step)})
        tracker.close()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"
    client: Any = importlib.import_module("mlflow").MlflowClient(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db"
    )
    history = client.get_metric_history((tmp_path / "mlflow-run-id").read_text(), "loss")
    assert [(one.step, one.value) for one in history] == [(0, 0), (1, 1), (2, 2), (3, 3)]
