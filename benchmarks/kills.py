"""Random schedules of kills and resizes: is every global batch, masks included, as it was?

`python -m benchmarks.kills --schedules 200 --real 20` draws 200 schedules of one to four
interruptions (ranks killed, one rank killed, all told to end, a checkpoint torn in half) between
which the world (1 to 4), the ZeRO stage (0 to 3) and the microbatch change, each over a data plan
of its own (batch ramp, mask ramp, kind of masking, mixing, shuffling). All of them are played in
this process, where every rank's batches are drawn, masked and hashed; the first 20 also with real
ranks that are really killed (a tiny model), one time in four while they start. Every hash that was
ever recorded is compared with that of the uninterrupted run; exit status 1 where one differs. The
limit in the same run is one rank that is never interrupted. Not measured: several machines
(tests/test_cluster.py kills one).
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from kill_helpers import prepare_ranks, random_plan, random_schedule, recipe_of, simulate, suffer
from pretrain_helpers import write_snapshot


def play(root: Path, schedules: int, real: int, first: int) -> tuple[Counter[str], float]:
    """Play all schedules; return what was counted and the seconds of the real ones."""
    counts = Counter({"mismatches": 0})
    context, seconds = prepare_ranks(), 0.0
    for seed in range(first, first + schedules):
        rng = random.Random(seed)
        schedule, plan = random_schedule(rng), random_plan(rng)
        counts["interruptions"] += len(schedule) - 1
        for one in schedule[:-1]:
            counts[f"ended by {one.end}"] += 1
        recipe = recipe_of(root / "store", root / f"s{seed}", seed, **plan)
        compared, wrong = simulate(schedule, recipe)
        counts["hashes compared, in process"] += compared
        counts["mismatches"] += wrong
        if seed - first < real:
            start = time.perf_counter()
            recipe = recipe_of(root / "store", root / f"r{seed}", seed, **plan)
            compared, wrong = suffer(schedule, recipe, context, random.Random(seed))
            took = time.perf_counter() - start
            seconds += took
            print(
                f"schedule {seed}: {len(schedule) - 1} interruptions, {compared} hashes, "
                f"{wrong} differ, {took:.1f} s",
                flush=True,
            )
            counts["interruptions of real ranks"] += len(schedule) - 1
            counts["hashes compared, real ranks"] += compared
            counts["mismatches"] += wrong
    return counts, seconds


def main() -> int:
    """Play the schedules and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--real", type=int, default=20, help="of them, with real ranks too")
    parser.add_argument("--first", type=int, default=0, help="seed of the first schedule")
    parsed = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_snapshot(root / "store")
        counts, seconds = play(root, parsed.schedules, parsed.real, parsed.first)
    print(f"{parsed.schedules} schedules, {min(parsed.real, parsed.schedules)} with real ranks")
    for name, count in sorted(counts.items()):
        print(f"{count:>8,} {name}")
    print(f"{time.perf_counter() - start:>8.1f} s, {seconds:.1f} s of them with real ranks")
    return 1 if counts["mismatches"] else 0


if __name__ == "__main__":
    sys.exit(main())
