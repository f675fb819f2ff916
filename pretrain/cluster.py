"""Training on a Ray cluster: the ranks are workers of Ray Train. The only importer of Ray here.

Beside it, calls that have nothing to say to each other run as plain Ray tasks, side by side.

What Ray does: it places the ranks, as many as there is room for, watches them, and starts them all
again when one fails or a machine comes or goes. What it does not do: checkpoints, data order and
process group are ours, so a restart is the same as the same command given again, with whatever
number of ranks there is then. Ray's notice that a machine will be taken away is answered by a
checkpoint at the next step. So is its wish to change the number of ranks, which waits for that. The
ranks go on until Ray ends them, and lose the steps in between. SIGTERM at the driver is passed on:
the ranks write a checkpoint and end.

A store or a network that is away for a while is a failure like that of a rank. A mistake of the
user's (ValueError) would fail again at every restart: the ranks leave it in a box, the next start
finds it there and ends, and the driver shows it.

Without a cluster Ray starts on this machine, on loopback only. On a cluster the ranks listen on the
address that Ray knows their machine by.
"""

import importlib
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from corpus.connection import connect
from corpus.files import is_remote, write_bytes
from corpus.recipe import Recipe
from pretrain.box import Box
from pretrain.checkpoints import RECIPE
from pretrain.launch import TIMEOUT, RankFailedError, configure_logging, join, keep_freed_memory
from pretrain.meeting import listen, open_store, use_interface
from pretrain.preemption import Notice, PreemptedError, listening
from pretrain.resume import run_directory
from pretrain.train import RunInUseError, train
from pretrain.world import World

logger = logging.getLogger(__name__)

# By name, as Ray's types say another version of Train than the one that runs.
ray: Any = importlib.import_module("ray")
ray_train: Any = importlib.import_module("ray.train")
ray_torch: Any = importlib.import_module("ray.train.torch")
ray_backend: Any = importlib.import_module("ray.train.backend")
ray_scaling: Any = importlib.import_module("ray.train.v2._internal.execution.scaling_policy")
ray_strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
ray_collective: Any = importlib.import_module("ray.train.collective")

# Ray's embedded object store carries a recipe and little else. Guess.
_OBJECT_STORE_BYTES = 100 * 2**20
# Ray itself looks every five seconds. Guess.
_ASK_AFTER_SECONDS = 1.0
# Longer than workers take to start where there is room for them. Guess.
_SILENCE_SECONDS = 20.0
# What Ray Train is to do, where the user's environment does not say. Paths are ours, so no change
# of directory. How long a group waits for its machines: right after one was lost, Ray still counts
# it, plans with it, and finds out by this wait (60 seconds by default; half of it is a guess).
_SETTINGS = {"RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30"}


class _OwnGroup(ray_backend.Backend):  # type: ignore[misc]
    """Leaves the process group to us; each rank sees all GPUs of its machine, as NCCL likes it."""

    share_cuda_visible_devices = True


class _OwnGroupConfig(ray_torch.TorchConfig):  # type: ignore[misc]
    @property
    def backend_cls(self) -> type[_OwnGroup]:
        return _OwnGroup


class _SavingPolicy(ray_scaling.ElasticScalingPolicy):  # type: ignore[misc]
    """Ray's, but ranks whose number is to change are asked for a checkpoint before."""

    def __init__(self, scaling: Any, box: Any) -> None:  # noqa: ANN401 - Ray's
        super().__init__(scaling)
        self._box, self._asked_group = box, -math.inf

    def make_decision_for_running_worker_group(
        self,
        worker_group_state: Any,  # noqa: ANN401 - Ray's
        worker_group_status: Any,  # noqa: ANN401 - Ray's
    ) -> Any:  # noqa: ANN401 - Ray's
        """Decide as Ray does, again when the checkpoint is written: the room may have changed."""
        is_asked = self._asked_group == worker_group_state.start_time
        if is_asked and ray.get(self._box.is_wanted.remote()):
            return ray_scaling.NoopDecision()
        self._asked_group = -math.inf
        if is_asked:
            self._latest_monitor_time = -math.inf  # Ray's own: when it looked last
        decision = super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )
        if is_asked or isinstance(decision, ray_scaling.NoopDecision):
            return decision
        ray.get(self._box.want.remote())
        self._asked_group = worker_group_state.start_time
        return ray_scaling.NoopDecision()


class _Trainer(ray_torch.TorchTrainer):  # type: ignore[misc]
    """Ray's, with a box that its controller and the ranks share."""

    def __init__(self, box: Any, is_own: bool, **settings: Any) -> None:  # noqa: ANN401 - Ray's
        """Train on the ranks of a cluster, or of a Ray of our own."""
        super().__init__(be_rank, **settings)
        self._box, self._is_own = box, is_own

    def _create_default_callbacks(self) -> list[Any]:
        """Leave out the actor that outlives the driver to clean up behind it, where Ray is our own.

        That ends with the driver, and has no dashboard: every second the actor would ask it how the
        driver is, and warn that nobody answers.
        """
        callbacks: list[Any] = super()._create_default_callbacks()
        if not self._is_own:
            return callbacks
        return [one for one in callbacks if "PlacementGroupCleaner" not in type(one).__name__]

    def _initialize_and_run_controller(self, **settings: Any) -> Any:  # noqa: ANN401 - Ray's
        if isinstance(settings["scaling_policy"], ray_scaling.ElasticScalingPolicy):
            settings["scaling_policy"] = _SavingPolicy(self.scaling_config, self._box)
        return super()._initialize_and_run_controller(**settings)


def run_on_ray(recipe: Recipe) -> None:
    """Train on Ray workers until the last step, through failures and changes of the cluster."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    config = recipe.pretrain
    cpus = config.worker_range[1] * config.ray_worker_cpus
    with _connected(cpus) as is_own, tempfile.TemporaryDirectory(prefix="maskline-") as directory:
        box = ray.remote(num_cpus=0, scheduling_strategy=_here())(Box).remote()
        trainer = _Trainer(
            box,
            is_own,
            train_loop_config={"recipe": _absolute(recipe).model_dump(mode="json"), "box": box},
            torch_config=_OwnGroupConfig(),
            scaling_config=_scaling(recipe),
            run_config=ray_train.RunConfig(
                name="maskline",
                storage_path=directory,
                # Below: which ranks there are, which we say ourselves.
                logging_config=ray_train.LoggingConfig(log_level="ERROR"),
                failure_config=ray_train.FailureConfig(
                    max_failures=recipe.pretrain.ray_max_failures
                ),
            ),
        )
        try:
            with _telling_of_room(box, recipe), listening(partial(_end, box)):
                trainer.fit()
        except ray_train.TrainingFailedError as error:
            raise RankFailedError(f"training on Ray ended: {error}") from error
        finally:
            mistake = ray.get(box.look.remote())
        if mistake is not None:
            raise ValueError(mistake)
        farewell = ray.get(box.farewell.remote())
    _leave_recipe(recipe)
    if farewell is not None:
        raise PreemptedError(farewell)


def _end(box: Any) -> None:  # noqa: ANN401 - Ray's actor
    """Have the ranks write a checkpoint and end; without ranks there is nothing to wait for."""
    if not ray.get(box.end.remote()):
        raise PreemptedError("told to end before any rank began")


@contextmanager
def _telling_of_room(box: Any, recipe: Recipe) -> Iterator[None]:  # noqa: ANN401 - Ray's actor
    """Say what is waited for where no rank begins for a while: Ray itself is silent then."""
    ended = threading.Event()

    def tell() -> None:
        if not ended.wait(_SILENCE_SECONDS) and not ray.get(box.has_begun.remote()):
            logger.warning(wanted_room(recipe, ray.cluster_resources(), ray.available_resources()))

    teller = threading.Thread(target=tell, name="room", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join(_SILENCE_SECONDS)  # a cluster that is gone does not answer


def wanted_room(recipe: Recipe, total: Mapping[str, float], free: Mapping[str, float]) -> str:
    """Say which room the ranks wait for, and which there is."""
    fewest, _ = recipe.pretrain.worker_range
    each = {"CPU": recipe.pretrain.ray_worker_cpus, "GPU": int(total.get("GPU", 0) > 0)}
    wants = " and ".join(f"{count} {kind}" for kind, count in each.items() if count)
    has = ", ".join(
        f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind} free"
        for kind, count in each.items()
        if count
    )
    return (
        f"waiting for room on Ray: pretrain.ray_workers wants {fewest} ranks at least, each with "
        f"{wants} on one machine, and the cluster has {has}; training begins as soon as they fit, "
        "or with fewer ranks in the recipe"
    )


def _leave_recipe(recipe: Recipe) -> None:
    """Leave the recipe where the command was given, as the ranks may have run elsewhere.

    It says where the checkpoints are, so that `export` and `explain-step` find them from here. One
    that lies there may be that of an earlier part of the run.
    """
    path = Path(run_directory(recipe)) / RECIPE
    if recipe.pretrain.checkpoint_root is not None:
        write_bytes(str(path), _absolute(recipe).model_dump_json(indent=2).encode())


def run_side_by_side(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], workers: int, cpus: int
) -> Iterator[tuple[int, Any]]:
    """Call a function as Ray tasks, `workers` at once; give (number of the call, result) each.

    They come in the order they end. Where the cluster has GPUs each call gets one. A call whose
    machine dies is repeated by Ray; an error of the function ends all.
    """
    with _connected(workers * cpus):
        gpus = int(ray.cluster_resources().get("GPU", 0) > 0)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus)(function)
        waiting = list(enumerate(calls))[::-1]
        running: dict[Any, int] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                number, arguments = waiting.pop()
                running[task.remote(*arguments)] = number
            for ended in ray.wait(list(running))[0]:
                yield running.pop(ended), _result_of(ended)


def _result_of(call: Any) -> Any:  # noqa: ANN401 - Ray's reference, the function's result
    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _here() -> Any:  # noqa: ANN401 - Ray's
    """Let something live on the driver's machine, with which the run ends anyway."""
    node = ray.get_runtime_context().get_node_id()
    return ray_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)


def _scaling(recipe: Recipe) -> Any:  # noqa: ANN401 - Ray's
    fewest, most = recipe.pretrain.worker_range
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    return ray_train.ScalingConfig(
        num_workers=most if fewest == most else (fewest, most),
        use_gpu=has_gpu,
        resources_per_worker={"CPU": recipe.pretrain.ray_worker_cpus, "GPU": int(has_gpu)},
        elastic_resize_monitor_interval_s=recipe.pretrain.ray_grow_after_seconds,
    )


@contextmanager
def _connected(cpus: int) -> Iterator[bool]:
    """Use the cluster of the job or of RAY_ADDRESS, or a Ray of our own on this machine.

    It tells whether it is our own.
    """
    if ray.is_initialized():
        yield False
        return
    is_own = connect(ray, cpus, _OBJECT_STORE_BYTES)
    try:
        yield is_own
    finally:
        ray.shutdown()


def _absolute(recipe: Recipe) -> Recipe:
    """Make local paths absolute: workers have directories of their own."""

    def locate(path: str | None) -> str | None:
        return path if path is None or is_remote(path) else str(Path(path).absolute())

    config = recipe.pretrain
    paths: dict[str, Any] = {
        name: locate(getattr(config, name)) for name in ("run", "checkpoint_root", "init_from")
    }
    if config.cache:
        directory = locate(config.cache.directory)
        paths["cache"] = config.cache.model_copy(update={"directory": directory})
    return recipe.model_copy(
        update={"store": locate(recipe.store), "pretrain": config.model_copy(update=paths)}
    )


def be_rank(settings: dict[str, Any]) -> None:
    """Be one rank: what a Ray Train worker runs, at every start of the group."""
    box = settings["box"]
    if not ray.get(box.begin.remote()):
        return
    keep_freed_memory()
    world = _join()
    configure_logging(logging.INFO if world.is_first else logging.ERROR)
    logger.info("training begins on %d ranks of Ray", world.size)
    try:
        train(Recipe.model_validate(settings["recipe"]), world, RayNotice(world, box))
    except PreemptedError as error:
        # As if all were done: whoever fails is started again.
        ray.get(box.leave.remote(str(error)))
    except RunInUseError:
        raise  # the ranks before us have not ended yet, as far as the disk knows: to be tried again
    except ValueError as error:
        ray.get(box.put.remote(str(error)))
        raise


class RayNotice(Notice):
    """Tells all ranks that a machine of theirs will be taken away, or their number change.

    To ask costs a round trip to an actor, so the first rank's clock decides when all of them do.
    """

    def __init__(self, world: World, box: Any) -> None:  # noqa: ANN401 - Ray's actor
        """Listen to Ray, and to the box in which its controller says what it wants."""
        self._box, self._is_first = box, world.is_first
        self._asked, self._is_drained, self._is_told_to_end = -math.inf, False, False

    def arrives(self, world: World) -> bool:
        """Tell whether there is news; that a machine will be taken away is told once."""
        now = time.monotonic()
        if not world.any_of(world.is_first and now - self._asked >= _ASK_AFTER_SECONDS):
            return False
        self._asked, was_drained = now, self._is_drained
        news = [ray_train.get_preemption_info() is not None, False, False]
        if world.is_first:
            news[1:] = ray.get([self._box.is_ending.remote(), self._box.is_wanted.remote()])
        drained, ending, wanted = world.sum_floats(*news)
        self._is_drained |= drained > 0
        self._is_told_to_end = ending > 0
        return wanted > 0 or self._is_drained > was_drained

    def answer(self, steps: int) -> None:
        """End the run, or let Ray's controller go on, which ends the ranks when it will."""
        if self._is_told_to_end:
            super().answer(steps)
        if self._is_first:
            ray.get(self._box.grant.remote())


def _join() -> World:
    """Meet the other ranks on the first one's machine, on the address that Ray knows it by."""
    context = ray_train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    host = ray.util.get_node_ip_address()
    use_interface(host)
    listener = listen(host, 0) if rank == 0 else None
    mine = (host, listener.getsockname()[1]) if listener else None
    address = ray_collective.broadcast_from_rank_zero(mine)
    if address is None:
        raise RuntimeError(f"rank 0 cannot listen on {host}, the address of its node in Ray")
    store = open_store(tuple(address), size, listener, TIMEOUT)
    return join(rank, size, context.get_local_rank(), store)
