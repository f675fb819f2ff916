"""What the process that real ranks are forked from imports, so that no rank has to load it.

Importing it loads DeepSpeed and draws batches of all kinds, for which numba reads its compiled
loops. Ranks are no less real for that: they meet, train, checkpoint and are killed on their own.
"""

import gc
import importlib
import random
import tempfile
from pathlib import Path

from kill_helpers import BATCH, global_hash, open_batches, random_plan, recipe_of
from pretrain_helpers import write_snapshot

_PLANS = 24  # of which some have each kind of masking, with and without isolation

importlib.import_module("deepspeed")
importlib.import_module("torch._dynamo")  # as optimizers do when they are made
with tempfile.TemporaryDirectory() as _directory:
    _store = Path(_directory) / "store"
    write_snapshot(_store)
    for _seed in range(_PLANS):
        _recipe = recipe_of(_store, _store, _seed, **random_plan(random.Random(_seed)))
        global_hash(open_batches(_recipe), 0, 1, BATCH)
gc.freeze()  # a rank's collections would copy all of this, touching it
