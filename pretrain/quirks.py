"""What DeepSpeed 0.19.8 does that a run would suffer from, put right in one place.

Each correction reaches into its code by name, and the tests of engines and launches show what it is
for.
"""

import gc
import importlib
import logging
import os
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import distributed, nn


def import_deepspeed() -> ModuleType:
    """Import DeepSpeed quietly, and before the process group is made; it probes for devices.

    Modules of it and of torch that are imported later keep the group, as defaults of functions.
    """
    # What training computes on, whatever the environment says.
    os.environ["DS_ACCELERATOR"] = "cuda" if torch.cuda.is_available() else "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated things, in many places
        deepspeed = importlib.import_module("deepspeed")
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # Its shared-memory all-reduce would be compiled at the first start, for 40 seconds and with
        # a compiler that may not be there; gloo does without. To ask what else could be compiled,
        # which we never use, would run the compiler at every start.
        deepspeed.ops.__compatible_ops__ = {}
        _import_muon_as_it_is()
        importlib.import_module("torch.distributed.nn.functional")
        # It prints the memory in use, whatever the level of the log.
        bf16: Any = importlib.import_module("deepspeed.runtime.bf16_optimizer")
        bf16.see_memory_usage = lambda *_, **__: None
    return deepspeed


def leave_group() -> None:
    """Leave the process group, and have its threads end: with the last that holds it.

    A thread of gloo's may still be releasing the tensors of the last collective. Where Python ends
    meanwhile, it ends the process by SIGABRT (torch 2.13), after a complete run too.
    """
    if not distributed.is_initialized():
        return
    gc.collect()  # engines are circles
    # DeepSpeed's own lets go of the groups that it made, where it made some.
    own = importlib.import_module("deepspeed.comm.comm")
    (own if own.cdb is not None else distributed).destroy_process_group()


def add_gradients_at_once(zero: Any) -> None:  # noqa: ANN401
    """Have BF16_Optimizer add a microbatch's gradients to the fp32 sums in one call, and drop them.

    Its own way converts and adds one by one, then keeps them as zeros for the next to be added to:
    26 bytes of memory traffic a parameter, not 10, and on a GPU 400 more kernels for a microbatch
    of a base model, which launches 580 without.
    """
    if not hasattr(zero, "update_hp_grads"):
        return

    @torch.no_grad()
    def update_hp_grads(clear_lp_grads: bool = False) -> None:
        groups = (zero.bf16_groups, zero.fp32_groups_gradients, zero.fp32_groups_has_gradients)
        for parameters, sums, seen in zip(*groups, strict=True):
            found = [at for at, parameter in enumerate(parameters) if parameter.grad is not None]
            if found:
                gradients = [parameters[at].grad.flatten() for at in found]
                torch._foreach_add_([sums[at] for at in found], gradients)
            for at in found:
                parameters[at].grad, parameters[at]._hp_grad, seen[at] = None, sums[at], True

    zero.update_hp_grads = update_hp_grads


def forget_model(model: nn.Module) -> None:
    """Have DeepSpeed's stage 3 let go of a model: it stays on a list and in a cache.

    With it would stay its tensors, the engine and the process group.
    """
    offload: Any = importlib.import_module("deepspeed.runtime.zero.parameter_offload")
    stack: list[nn.Module] = getattr(offload, "FWD_MODULE_STACK", [])
    stack[:] = [module for module in stack if module is not model]
    cached = "_PartitionedParameterCoordinator__params_to_release"  # what a decorator wraps
    wrapper = getattr(getattr(offload, "PartitionedParameterCoordinator", None), cached, None)
    for cell in getattr(wrapper, "__closure__", None) or ():
        if hasattr(cell.cell_contents, "cache_clear"):
            cell.cell_contents.cache_clear()


def _import_muon_as_it_is() -> None:
    """Import DeepSpeed's own Muon, which ZeRO asks for and we never use, without compiling it.

    Its decorators would load torch's compiler at every start.
    """
    compiler: Any = importlib.import_module("deepspeed.runtime.compiler")
    decorate = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = decorate
