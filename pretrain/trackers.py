"""Hands the numbers of a run to TensorBoard, Weights & Biases or MLflow, where they are installed.

Each is imported only when the recipe names it (`pretrain.trackers`), and by rank 0 alone. Nothing
leaves the machine unless the environment says so: TensorBoard writes event files under the run;
Weights & Biases is offline (`wandb sync` sends the run later) until WANDB_MODE says otherwise;
MLflow writes a database under the run until MLFLOW_TRACKING_URI says otherwise; what both would
report about their own use is switched off. Keys and passwords are theirs to read from the
environment. Of the recipe they get numbers and plain words, no path and no URL, which may hold a
key.

What fails there, from the opening on, is told once. It costs the tracker some steps, of which
metrics.jsonl has all, and the run at most a tenth of the time that a server does not answer, and
one call when it ends. A run that goes on keeps its identifier there. Steps that are taken again are
written again: TensorBoard drops the earlier ones, the others show the later.
"""

import importlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import orjson

from corpus.training import Pretrain

logger = logging.getLogger(__name__)

_PROJECT = "maskline"
# For so long at least a tracker that failed is left in peace. A guess.
_PAUSE_SECONDS = 60.0
# A server that does not answer holds up each call until its client gives up, MLflow's after four
# minutes: with a rest of so many times the call an outage takes less than a tenth of a run.
_REST_FACTOR = 10
_SHOWN_CHARACTERS = 500  # of an error, which may quote a whole page. A guess.
# A question mark before it is of a password or begins a query: nothing of that URL is shown then.
_USER_INFO = re.compile(r"(?<=://)(?:[^/?]*@|[^/]*\?[^/]*@\S*)")
_QUERY = re.compile(r"(://[^\s?]*\?)\S+")


class Tracker(Protocol):
    """Where numbers go, step by step."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Write what is left and end."""


class Patient:
    """Another tracker, whose failures do not end a run, nor does one to open it."""

    def __init__(self, name: str, opening: Callable[[], Tracker]) -> None:
        """Take over how to open a tracker; the first step does."""
        self._name, self._opening = name, opening
        self._tracker: Tracker | None = None
        self._has_failed, self._resting_until = False, 0.0

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Take the numbers of a step, or lose them."""
        start = time.monotonic()
        if start < self._resting_until:
            return
        try:
            if self._tracker is None:
                self._tracker = self._opening()
            self._tracker.log(step, numbers)
        except Exception as error:  # noqa: BLE001 - each package and its transport have their own
            self._tell(error)
            end = time.monotonic()
            self._resting_until = end + max(_PAUSE_SECONDS, _REST_FACTOR * (end - start))

    def close(self) -> None:
        """Write what is left and end."""
        if self._tracker is None:
            return
        try:
            self._tracker.close()
        except Exception as error:  # noqa: BLE001 - as above
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        """Say it once; the message of an error may show an address and a password."""
        if not self._has_failed:
            self._has_failed = True
            why = without_credentials(" ".join(str(error).split()))
            logger.warning(
                "tracker %s failed (%s: %s): training goes on, it may lack steps; metrics.jsonl "
                "has all of them",
                self._name,
                type(error).__name__,
                why[:_SHOWN_CHARACTERS],
            )


def without_credentials(text: str) -> str:
    """Take out of the URLs in a text what may be a key: user, password and query.

    `https://team:word@host/a.jsonl?token=b` -> `https://host/a.jsonl?...`
    """
    return _QUERY.sub(r"\1...", _USER_INFO.sub("", text))


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
        self._metric, self._error = module.entities.Metric, module.exceptions.MlflowException
        try:
            self._client = module.MlflowClient(tracking_uri=chosen or f"sqlite:///{here}/mlflow.db")
            self._id = self._open(here, None if chosen else f"{here}/mlflow-artifacts")
            for name, value in settings.items():
                self._client.set_tag(self._id, name, value)
        except self._error as error:
            if chosen:
                raise
            raise ValueError(
                f"MLflow could not be opened ({type(error).__name__}): its local database needs "
                "the whole package `mlflow`; or set MLFLOW_TRACKING_URI"
            ) from error

    def _open(self, run: Path, artifacts: str | None) -> str:
        note = run / "mlflow-run-id"
        known = _read(note)
        if known and self._has(known):
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

    def _has(self, run: str) -> bool:
        """Ask whether a run is there: it is not where the tracking URI is no longer the same."""
        try:
            self._client.get_run(run)
        except self._error as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            logger.warning("MLflow does not know run %s, a new one begins there", run)
            return False
        return True

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
    """Give the trackers that a recipe names; the first step opens them."""
    settings = shown_settings(config)
    Path(run).mkdir(parents=True, exist_ok=True)
    openings: dict[str, Callable[[ModuleType], Tracker]] = {
        "tensorboard": lambda module: TensorBoard(module, run, first_step),
        "wandb": lambda module: WeightsAndBiases(module, run, settings),
        "mlflow": lambda module: MLflow(module, run, settings),
    }
    return [Patient(name, partial(openings[name], _import(name))) for name in config.trackers]


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
        # It would print the address of the run, and in it the password of the tracking URI.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        return importlib.import_module("mlflow")
    except ImportError:
        raise ValueError(
            f"pretrain.trackers names {name}, which is not installed: "
            f"`pip install {name}`, or take it out of the list"
        ) from None


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None
