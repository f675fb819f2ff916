"""Ends the demo: what was kept, what was dropped and why, what the model learned, what it says.

Everything is read from what the commands before it left on disk: the snapshot, the metrics of the
run and the exported checkpoint, which is loaded by `transformers` as anyone would load it.

    python -m demo.summary RECIPE EXPORTED_DIRECTORY PICTURE
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import transformers
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from corpus.files import read_bytes
from corpus.recipe import Recipe, load_recipe
from corpus.shards import Shard
from corpus.snapshots import Snapshot, Tree, open_snapshot
from corpus.tokenizer import LEADING_SPECIALS
from demo.duplicates import Piece, compare, find_pair
from demo.picture import draw_loss
from pretrain.metrics import read_metrics

# What the rules that docstrings fail ask for; the numbers are those of pipeline/rules.py.
MEANINGS = {
    "exact": "the same text as a kept document",
    "minhash": "nearly the same text as a kept document",
    "same_id": "the same id as a kept document",
    "gopher_min_words": "fewer than 50 words",
    "gopher_max_words": "more than 100,000 words",
    "gopher_min_mean_word_length": "words of fewer than 3 characters on average",
    "gopher_max_mean_word_length": "words of more than 10 characters on average",
    "gopher_hash_to_word_ratio": "a # for every ten words or more",
    "gopher_ellipsis_to_word_ratio": "an ellipsis for every ten words or more",
    "gopher_bullet_lines": "more than 90 % of the lines begin with a bullet",
    "gopher_ellipsis_lines": "more than 30 % of the lines end in an ellipsis",
    "gopher_alphabetic_words": "more than 20 % of the words have no letter",
    "gopher_stop_words": "fewer than two of: the be to of and that have with",
}

# Nats below the unigram entropy at the end. Measured: 1.71, 1.57 and 1.66 with seeds 0, 1 and 2 of
# recipes/demo.yaml on the packages of constraints.txt, 2026-11; the rest allows for other packages.
LEAST_GAIN = 1.0

_LOG_WIDTH = 120  # characters, where there is no terminal to ask

# Of the kind the model has read.
SENTENCES = (
    "Returns <mask> if the file exists, False otherwise.",
    "copy : bool, optional. If <mask>, the input is copied.",
    "axis : int, default <mask>",
    "A tensor of shape (batch_size, sequence_length, hidden_<mask>)",
    "Number of hidden layers in the Transformer <mask>.",
)


def count_tokens(tree: Tree, snapshot: Snapshot, split: str) -> npt.NDArray[np.int64]:
    """Count every token of a split by id, special tokens left out: [vocab_size]."""
    counts = np.zeros(snapshot.vocab_size, np.int64)
    for entry in snapshot.shards:
        if entry.split == split:
            shard = Shard(tree.find(entry.path))
            ids = shard.token_ids(np.arange(shard.rows)).reshape(-1)
            counts += np.bincount(ids, minlength=snapshot.vocab_size)
    counts[: len(LEADING_SPECIALS)] = 0
    return counts


def unigram_entropy(counts: npt.NDArray[np.int64]) -> float:
    """Return the entropy of a count table in nats: [2, 1, 1] -> 1.5 ln 2."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def funnel(stats: dict[str, Any]) -> list[tuple[str, list[int]]]:
    """Turn the snapshot's statistics into rows (name, a number a source and their sum).

    Documents in, then drops by rule, the most frequent first, then documents kept.
    """
    kept = [source["documents"] for source in stats.values()]
    rules = sorted({rule for source in stats.values() for rule in source["dropped"]})
    drops = [
        (rule, [source["dropped"].get(rule, 0) for source in stats.values()]) for rule in rules
    ]
    came_in = [
        count + sum(source["dropped"].values())
        for count, source in zip(kept, stats.values(), strict=True)
    ]
    drops.sort(key=lambda row: (-sum(row[1]), row[0]))
    return [(name, [*row, sum(row)]) for name, row in [("in", came_in), *drops, ("kept", kept)]]


def show_funnel(stats: dict[str, Any]) -> Table:
    """Lay out the funnel as a table."""
    table = Table(title="Documents in, dropped by rule, kept", title_justify="left")
    table.add_column("")
    for name in [*stats, "all"]:
        table.add_column(name, justify="right")
    table.add_column("why")
    rows = funnel(stats)
    for name, numbers in rows:
        is_total = name in ("in", "kept")
        table.add_row(
            name if is_total else f"- {name}",
            *(f"{number:,}" for number in numbers),
            MEANINGS.get(name, ""),
            style="bold" if is_total else "",
            end_section=name == "in" or name == rows[-2][0],
        )
    return table


def show_near_duplicate(tree: Tree, snapshot: Snapshot) -> Group | Text:
    """Lay a near-duplicate beside its witness."""
    pair = find_pair(tree, snapshot)
    if pair is None:
        return Text("No near-duplicate was found.")
    dropped, kept = compare(pair.text, pair.witness_text)
    table = Table(show_lines=True)
    table.add_column(f"dropped: {pair.id}", ratio=1, overflow="fold")
    table.add_column(f"kept, its witness: {pair.witness_id}", ratio=1, overflow="fold")
    table.add_row(_marked(dropped, "red"), _marked(kept, "green"))
    title = f"A near-duplicate beside its witness: Jaccard similarity {pair.similarity:.3f}"
    return Group(Text(title, style="italic"), table)


def _marked(pieces: Sequence[Piece], colour: str) -> Text:
    """Colour what differs, and bracket it for terminals without colours."""
    text = Text()
    for piece in pieces:
        shown = f"«{piece.text}»" if piece.differs else piece.text
        text.append(shown, style=f"bold {colour}" if piece.differs else "")
        text.append(" ")
    return text


def show_learning(metrics: Sequence[dict[str, Any]], entropy: float, vocab_size: int) -> Table:
    """Lay out the losses beside what they are measured by."""
    measured = [line["validation_loss"] for line in metrics if "validation_loss" in line]
    table = Table(title="Loss, nats a masked token", title_justify="left")
    for name in ("", "measured", "beside", "difference"):
        table.add_column(name, justify="left" if not name else "right")
    for name, loss, beside, level in (
        ("first training step", metrics[0]["loss"], "ln(vocabulary)", math.log(vocab_size)),
        ("validation, at the end", measured[-1], "unigram entropy of its tokens", entropy),
    ):
        table.add_row(name, f"{loss:.3f}", f"{beside} {level:.3f}", f"{loss - level:+.3f}")
    return table


def check_learned(metrics: Sequence[dict[str, Any]], entropy: float) -> None:
    """Raise `ValueError` where the model ends no better than the frequencies of the tokens."""
    measured = [line["validation_loss"] for line in metrics if "validation_loss" in line]
    if measured[-1] > entropy - LEAST_GAIN:
        raise ValueError(
            f"the validation loss ends at {measured[-1]:.3f}, expected {LEAST_GAIN:.1f} nats or "
            f"more below the unigram entropy of its tokens, {entropy:.3f}: something is wrong "
            "with the training"
        )


def show_fill_mask(directory: str) -> Table:
    """Let the exported checkpoint fill gaps, loaded by `transformers` alone."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    fill = transformers.pipeline("fill-mask", model=directory)
    table = Table(title=f"Fill-mask by {directory}", title_justify="left")
    table.add_column("sentence")
    table.add_column("the model's first five, with their probability")
    for sentence in SENTENCES:
        guesses = (
            f"{guess['token_str'].strip() or repr(guess['token_str'])} {guess['score']:.2f}"
            for guess in fill(sentence)
        )
        table.add_row(Text(sentence), Text("  ".join(guesses)))
    return table


def summarize(recipe: Recipe, exported: str, picture: Path, console: Console) -> None:
    """Print the summary and write the picture."""
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    tree = snapshot.tree(recipe.store)
    run = recipe.pretrain.run
    metrics = read_metrics(run) if run else []
    if not metrics:
        raise ValueError(f"there are no metrics in {run}: train first, then summarize")
    entropy = unigram_entropy(count_tokens(tree, snapshot, "validation"))
    draw_loss(picture, metrics, entropy, math.log(snapshot.vocab_size))
    tokens, seconds = (sum(line[key] for line in metrics) for key in ("tokens", "seconds"))
    console.print(
        Panel.fit(
            f"snapshot {snapshot.label}, fingerprint {snapshot.fingerprint[:16]}: "
            f"{snapshot.counts.tokens:,} tokens in {snapshot.counts.sequences:,} sequences\n"
            f"{len(metrics):,} steps over {tokens:,} tokens in {seconds / 60:.1f} minutes: "
            f"{tokens / seconds:,.0f} tokens/s",
            title="maskline demo",
        )
    )
    console.print(show_funnel(orjson.loads(read_bytes(tree.find("stats.json")))["sources"]))
    console.print(show_near_duplicate(tree, snapshot))
    console.print(show_fill_mask(exported))
    console.print(show_learning(metrics, entropy, snapshot.vocab_size))
    console.print(f"The loss curve is {picture}; the checkpoint for fine-tuning is {exported}.")
    check_learned(metrics, entropy)


def main(arguments: Sequence[str] | None = None) -> int:
    """Summarize a run; return the exit status."""
    parser = argparse.ArgumentParser("python -m demo.summary", description=__doc__)
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument("exported", help="directory that `python -m pretrain export` wrote")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parsed = parser.parse_args(arguments)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _LOG_WIDTH)
    try:
        summarize(load_recipe(parsed.recipe), parsed.exported, parsed.picture, console)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
