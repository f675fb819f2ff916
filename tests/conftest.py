"""Fixtures shared by the tests; settings that keep Ray and deepspeed quiet and on loopback."""

import fcntl
import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from corpus_helpers import Built, refresh, write_corpus
from hypothesis import settings
from pretrain_helpers import write_snapshot

from corpus.files import remove_tree

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray gives way to others by default, and would wait for the other files that are tested.
os.environ.setdefault("RAY_worker_niceness", "0")
# Several files are tested at a time: more threads would wait for each other, spinning. Measured on
# two cores: one thread takes a third of the CPU time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Nothing is timed: a busy machine must not make a test fail. Nor does chance: the same code sees
# the same examples, others with HYPOTHESIS_PROFILE=random.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("random", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those that ask for one, and hear Ctrl-C, which some give."""
    # A shell starts what it runs in the background so that it, and all below it, ignores Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.markexpr != "gpu":
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}


def pytest_collection_finish() -> None:
    """Keep all that was imported out of garbage collections, which DeepSpeed asks for each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def remote() -> Iterator[str]:
    """A place of fsspec's memory, which is remote to all that reads and writes."""
    yield "memory://test-remote"
    remove_tree("memory://test-remote")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; tests that need it are skipped where it is missing."""
    data = Path(__file__).parents[2] / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"no development data at {data}")
    return data


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A small corpus refreshed once by the command line, for all that test; nobody changes it."""
    base = tmp_path_factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "corpus"
    directory.mkdir(exist_ok=True)
    summary = directory / "summary.json"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not summary.exists():
            summary.write_text(json.dumps(refresh(write_corpus(directory))))
    return Built(directory, directory / "recipe.yaml", json.loads(summary.read_text()))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one synthetic snapshot to train on; nobody changes it."""
    root = tmp_path_factory.mktemp("store")
    write_snapshot(root)
    return root
