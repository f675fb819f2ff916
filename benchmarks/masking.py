"""Tokens per CPU second of drawing masks, beside transformers, and the statistics of the draw.

`python -m benchmarks.masking [--rows 2048] [--peers PYTHON] [--million 10]` draws masks for rows
of 512 random ids in batches of 512, on one core, in every way of masking, in place and into a copy,
and in torch on a GPU where there is one. The peer is transformers'
`DataCollatorForLanguageModeling` (torch tensors, batches of 32, its defaults, one thread). Each
figure is the best of 50 passes, of the peer five (`--rows 0` leaves them out). Then it draws that
many million positions in every way of masking, words being 4/3 tokens long in the mean, and
compares shares, positions and correlations with what chance allows (`benchmarks.mask_statistics`
says which and how), and prints each beside its bound.

PYTHON is the interpreter of an environment with transformers and torch.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.mask_statistics import Check, check_masks, check_word_masks
from benchmarks.peers import COLLATOR, run_peer
from corpus.training import Pretrain
from pretrain.config import plan_over
from pretrain.draw import MASKINGS
from pretrain.masking import ONE, MaskRule, mask_in_place, mask_rows, train_keys
from pretrain.masking_torch import mask_tensors

_LENGTH, _BATCH, _VOCABULARY, _PASSES = 512, 512, 50_265, 50
_WORD_SHARE = 0.75  # of tokens begin a word: about what English has at this vocabulary

_PEERS = (
    COLLATOR
    + """
import json, sys, time
rows = torch.randint(4, 50264, (int(sys.argv[1]), 512))
rows[:, 0], rows[:, -1] = 0, 2
batches = [[{"input_ids": row} for row in part] for part in rows.split(32)]
best = 0.0
for _ in range(5):
    start = time.process_time()
    for batch in batches:
        collate(batch)
    best = max(best, rows.numel() / (time.process_time() - start))
print(json.dumps({"DataCollatorForLanguageModeling": best}))
"""
)


def make_rule(masking: str) -> MaskRule:
    """Masks as in the paper."""
    tenth = round(0.1 * ONE)
    return MaskRule(round(0.15 * ONE), tenth, tenth, _VOCABULARY, _LENGTH, masking)


def measure(draw: Callable[[], object], tokens: int, clock: Callable[[], float]) -> float:
    """Return tokens per second, the best of some passes."""
    draw()
    found = []
    for _ in range(_PASSES):
        start = clock()
        draw()
        found.append(tokens / (clock() - start))
    return max(found)


def measure_all(rows: int) -> dict[str, float]:
    """Measure every way of masking."""
    random = np.random.default_rng(0)
    tokens = random.integers(4, _VOCABULARY - 1, (rows, _LENGTH)).astype(np.int32)
    tokens[:, 0], tokens[:, -1], tokens[::2, 200] = 0, 2, 2
    lengths, words = np.full(rows, _LENGTH, np.int32), random.random(tokens.shape) < _WORD_SHARE
    plan = plan_over(Pretrain(batch_sequences=_BATCH), "")
    numbers = np.arange(rows)
    keys = train_keys(plan, numbers, numbers, numbers // rows)
    parts = [slice(first, first + _BATCH) for first in range(0, rows, _BATCH)]
    found = {}
    for masking in MASKINGS:
        rule = make_rule(masking)

        def draw(rule: MaskRule = rule) -> None:
            for part in parts:
                mask_rows(tokens[part], lengths[part], keys[part], rule, words[part])

        def seconds_in_place(rule: MaskRule = rule) -> float:
            taken = 0.0
            for part in parts:
                fresh = tokens[part].copy()
                start = time.process_time()
                mask_in_place(fresh, lengths[part], keys[part], rule, words[part])
                taken += time.process_time() - start
            return taken

        in_place = min(seconds_in_place() for _ in range(_PASSES))
        found[f"ours, {masking}, in place"] = tokens.size / in_place
        found[f"ours, {masking}, copied"] = measure(draw, tokens.size, time.process_time)
    if torch.cuda.is_available():
        arrays = (tokens, lengths, keys.view(np.int64), words)
        found |= measure_there([torch.from_numpy(each).cuda() for each in arrays])
    return found


def measure_there(given: list[torch.Tensor]) -> dict[str, float]:
    """Measure every way of masking on the GPU where tokens, lengths, keys and word starts lie."""
    tokens, lengths, keys, words = given
    found = {}
    for masking in MASKINGS:

        def draw(rule: MaskRule = make_rule(masking)) -> None:  # noqa: B008
            mask_tensors(tokens, lengths, keys, rule, words)
            torch.cuda.synchronize()

        name = f"ours, {masking}, {torch.cuda.get_device_name()} (wall time)"
        found[name] = measure(draw, tokens.numel(), time.perf_counter)
    return found


def main() -> int:
    """Measure and print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--peer_rows", type=int, default=2048)
    parser.add_argument("--peers", help="interpreter with transformers")
    parser.add_argument("--million", type=float, default=10, help="positions to check")
    parsed = parser.parse_args()
    if parsed.million < 1:
        parser.error("--million: correlations want 1 at least")
    found = measure_all(parsed.rows) if parsed.rows else {}
    if parsed.peers:
        found |= run_peer(parsed.peers, _PEERS, str(parsed.peer_rows))
    for name, speed in found.items():
        print(f"{name:>48} {speed / 1e6:9.2f} million tokens per CPU second")
    rows = round(parsed.million * 1e6 / _LENGTH)
    for masking in MASKINGS:
        rule = make_rule(masking)
        print(f"{masking}, {rows * _LENGTH:,} positions:")
        if rule.needs_words:
            print_checks(check_word_masks(rule, rows, _WORD_SHARE))
        else:
            print_checks(check_masks(rule, rows))
    return 0


def print_checks(checks: list[Check]) -> None:
    """Print figures beside their bounds."""
    for check in checks:
        verdict = "inside" if check.is_inside else "OUTSIDE"
        print(
            f"{check.name:>48} {check.found:12.6f} {check.low:12.6f} {check.high:12.6f} {verdict}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
