"""Random chains of refreshes and take-downs: each equals its rebuild and the brute force.

`python -m benchmarks.chains --chains 1000 --kills 100 --partitions 4096` runs what the tests run a
bounded set of, in this process without Ray: chains of refreshes, chains with take-downs, commands
that die right before a record is committed and go on with another number of workers, and another
number of partitions. It prints how often each hard case occurred and exits with 1 at the first
difference. `--first` starts at another seed. About a second a chain.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from chain_helpers import (
    Chain,
    Delivery,
    check_chain,
    compare_snapshots,
    prepare,
    random_config,
    random_deliveries,
    random_records,
    run_with_kills,
)

from corpus.snapshots import open_snapshot


def run_chains(root: Path, seeds: range, takedowns: bool) -> Counter[str]:
    """Check a chain a seed; return the cases that occurred."""
    cases: Counter[str] = Counter()
    for seed in seeds:
        directory = root / "chain"
        cases += check_chain(seed, directory, takedowns)
        shutil.rmtree(directory)
    return cases


def run_kills(root: Path, first: int, wanted: int) -> int:
    """Kill commands of chains until there were as many kills as wanted; return how many chains."""
    kills = chains = 0
    while kills < wanted:
        rng = random.Random(first + chains)
        chain = Chain(root / f"killed-{chains}", random_config(rng))
        kills += run_with_kills(rng, chain, random_deliveries(rng))
        stores = (chain.store, str(chain.directory / "rebuilt"))
        compare_snapshots(stores, (open_snapshot(chain.store), chain.rebuild()))
        shutil.rmtree(chain.directory)
        chains += 1
    return chains


def run_partitions(root: Path, partitions: int) -> bool:
    """Tell whether a corpus has the same fingerprint with 16, 256 and this many partitions."""
    files = {("a", f"{n}.jsonl"): random_records(random.Random(n), 30) for n in range(3)}
    found = set()
    for number in (16, 256, partitions):
        config = {"threshold": 0.5, "ngram": 2, "partitions": number}
        chain = Chain(root / f"partitions-{number}", config)
        found.add(chain.deliver(Delivery("s1", files)).fingerprint)
    return len(found) == 1


def main() -> int:
    """Run everything asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=100, help="of each kind")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--partitions", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--directory", help="where stores are made for a moment")
    parsed = parser.parse_args()
    prepare(pytest.MonkeyPatch())
    seeds = range(parsed.first, parsed.first + parsed.chains)
    with tempfile.TemporaryDirectory(dir=parsed.directory) as name:
        root = Path(name)
        for takedowns in (False, True):
            start = time.perf_counter()
            cases = run_chains(root, seeds, takedowns)
            kind = "with take-downs" if takedowns else "of refreshes"
            seconds = time.perf_counter() - start
            print(f"{len(seeds):,} chains {kind} equal their rebuilds, {seconds:.0f} s")
            print("  " + ", ".join(f"{count:,} {case}" for case, count in sorted(cases.items())))
        if parsed.kills:
            chains = run_kills(root, parsed.first, parsed.kills)
            print(f"{parsed.kills} kills or more in {chains} chains do not show")
        if parsed.partitions and not run_partitions(root, parsed.partitions):
            print("another number of partitions shows")
            return 1
        if parsed.partitions:
            print(f"16, 256 and {parsed.partitions:,} partitions give one fingerprint")
    return 0


if __name__ == "__main__":
    sys.exit(main())
