"""What a process does that shares a cache with others; it imports little, to start soon."""

from pathlib import Path
from typing import Any

import numpy as np

from corpus.snapshots import ShardEntry
from corpus.training import Cache
from pretrain.cache import ShardCache, Wanted


def fetch_all(directory: str, url: str, entries: list[ShardEntry], results: Any) -> None:  # noqa: ANN401
    """Use shards in random order through a cache of three and a half; say if all were right."""
    cache = ShardCache(Cache(directory=directory, max_bytes=350))
    found = []
    for at in np.random.default_rng(len(entries)).integers(0, len(entries), 60):
        copy = cache.fetch(Wanted(f"{url}/{at}", entries[at]))
        found.append(Path(copy.path).read_bytes() == bytes([at]) * 100)
        copy.close()
    results.put(all(found))
