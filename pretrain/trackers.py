"""Hands the numbers of a run to TensorBoard, Weights & Biases or MLflow, where they are installed.

Each is imported only when the recipe names it (`pretrain.trackers`), and by rank 0 alone. Nothing
leaves the machine unless the environment says so: TensorBoard writes event files under the run;
Weights & Biases is offline (`wandb sync` sends the run later) until WANDB_MODE says otherwise;
MLflow writes a database under the run until MLFLOW_TRACKING_URI says otherwise; what both would
report about their own use is switched off. Keys and passwords are theirs to read from the
environment. Of the recipe they get numbers and plain words, no path and no URL, which may hold a
key.

What fails there while a run goes on is told once and costs the tracker some steps, the run nothing:
metrics.jsonl has all of them. A run that goes on keeps its identifier there. Steps that are taken
again are written again: TensorBoard drops the earlier ones, the others show the later.
"""

import importlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import orjson

from corpus.training import Pretrain

logger = logging.getLogger(__name__)

_PROJECT = "maskline"
# For so long a tracker that failed is left in peace: a server that does not answer can hold up each
# call until its client gives up. A guess.
_PAUSE_SECONDS = 60.0


class Tracker(Protocol):
    """Where numbers go, step by step."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Write what is left and end."""


class Patient:
    """Another tracker, whose failures do not end a run."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        """Take a tracker over."""
        self._name, self._tracker = name, tracker
        self._has_failed, self._resting_until = False, 0.0

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a step, or lose them."""
        if time.monotonic() < self._resting_until:
            return
        try:
            self._tracker.log(step, numbers)
        except Exception as error:  # noqa: BLE001 - each package and its transport have their own
            self._tell(error)
            self._resting_until = time.monotonic() + _PAUSE_SECONDS

    def close(self) -> None:
        """Write what is left and end."""
        try:
            self._tracker.close()
        except Exception as error:  # noqa: BLE001 - as above
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        """Say it once; the message of an error may show an address and a password."""
        if not self._has_failed:
            self._has_failed = True
            logger.warning(
                "tracker %s failed (%s): training goes on, it may lack steps; metrics.jsonl has "
                "all of them",
                self._name,
                type(error).__name__,
            )


class TensorBoard:
    """Event files in `<run>/tensorboard`."""

    def __init__(self, module: ModuleType, run: str, first_step: int) -> None:
        """Open a new event file; what older ones hold from `first_step` on is void."""
        self._writer = module.SummaryWriter(str(Path(run) / "tensorboard"), purge_step=first_step)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Write scalars."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A Weights & Biases run, offline by default, its files in `<run>/wandb`."""

    def __init__(self, module: Any, run: str, settings: Mapping[str, Any]) -> None:  # noqa: ANN401
        """Start the run, or go on with it."""
        note = Path(run) / "wandb-run-id"
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=Path(run).name,
            id=_read(note),
            resume="allow",
            dir=run,
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=dict(settings),
            # Output, code and machine may hold what is nobody's business.
            settings=module.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_meta=True,
                silent=True,
            ),
        )
        note.write_text(self._run.id)
        # Its own step only grows; ours goes back when a run takes steps again.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log one row."""
        self._run.log({"step": step, **numbers})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflow:
    """An MLflow run, in `<run>/mlflow.db` by default."""

    def __init__(self, module: Any, run: str, settings: Mapping[str, Any]) -> None:  # noqa: ANN401
        """Start the run, or go on with it."""
        here = Path(run).absolute()
        chosen = os.environ.get("MLFLOW_TRACKING_URI")
        self._metric = module.entities.Metric
        try:
            self._client = module.MlflowClient(tracking_uri=chosen or f"sqlite:///{here}/mlflow.db")
            self._id = self._open(here, None if chosen else f"{here}/mlflow-artifacts")
        except module.exceptions.MlflowException as error:
            # Its message may show the URI, and that a password.
            raise ValueError(
                f"MLflow could not be opened ({type(error).__name__}): its local database needs "
                "the whole package `mlflow`; or set MLFLOW_TRACKING_URI"
            ) from None
        for name, value in settings.items():
            self._client.set_tag(self._id, name, value)

    def _open(self, run: Path, artifacts: str | None) -> str:
        note = run / "mlflow-run-id"
        known = _read(note)
        if known:
            return known
        experiment = self._client.get_experiment_by_name(_PROJECT)
        identifier = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(_PROJECT, artifact_location=artifacts)
        )
        made = str(self._client.create_run(identifier, run_name=run.name).info.run_id)
        note.write_text(made)
        return made

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Log all numbers with their step in one call."""
        now = time.time_ns() // 10**6  # it wants milliseconds
        metrics = [self._metric(name, value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Mark the run as ended."""
        self._client.set_terminated(self._id)


def check_trackers(names: Sequence[str]) -> None:
    """Import what a recipe names; `ValueError` names a package that is missing."""
    for name in names:
        _import(name)


def open_trackers(config: Pretrain, run: str, first_step: int) -> list[Tracker]:
    """Open the trackers that a recipe names."""
    settings = shown_settings(config)
    Path(run).mkdir(parents=True, exist_ok=True)
    opened: list[Tracker] = []
    for name in config.trackers:
        module = _import(name)
        tracker: Tracker
        if name == "tensorboard":
            tracker = TensorBoard(module, run, first_step)
        elif name == "wandb":
            tracker = WeightsAndBiases(module, run, settings)
        else:
            tracker = MLflow(module, run, settings)
        opened.append(Patient(name, tracker))
    return opened


def shown_settings(config: Pretrain) -> dict[str, Any]:
    """Give the settings of a run that may be shown elsewhere: those without a path or a URL."""
    every = config.model_dump(mode="json")
    return {name: value for name, value in every.items() if b"/" not in orjson.dumps(value)}


def _import(name: str) -> Any:  # noqa: ANN401
    try:
        if name == "tensorboard":
            return importlib.import_module("torch.utils.tensorboard")
        if name == "wandb":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
            return importlib.import_module("wandb")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        return importlib.import_module("mlflow")
    except ImportError:
        raise ValueError(
            f"pretrain.trackers names {name}, which is not installed: "
            f"`pip install {name}`, or take it out of the list"
        ) from None


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
