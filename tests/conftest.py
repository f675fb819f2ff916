"""Fixtures shared by the tests; settings that keep Ray and deepspeed quiet and on loopback."""

import os
from pathlib import Path

import pytest
import torch
from corpus_helpers import Built, refresh, write_corpus
from hypothesis import settings
from pretrain_helpers import write_snapshot

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Ray gives way to others by default, and would wait for the other files that are tested.
os.environ.setdefault("RAY_worker_niceness", "0")
# Several files are tested at a time: more threads would wait for each other, spinning. Measured on
# two cores: one thread takes a third of the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Nothing is timed: a busy machine must not make a test fail.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; tests that need it are skipped where it is missing."""
    data = Path(__file__).parents[2] / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"no development data at {data}")
    return data


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A small corpus refreshed once by the command line; nobody changes it."""
    directory = tmp_path_factory.mktemp("corpus")
    recipe = write_corpus(directory)
    return Built(directory, recipe, refresh(recipe))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one synthetic snapshot to train on; nobody changes it."""
    root = tmp_path_factory.mktemp("store")
    write_snapshot(root)
    return root
