"""`python -m pretrain ablate RECIPE`: the paper's Tables 1 to 3 asked again, on one's own corpus.

    stores (one a packing) -> runs (a setting with a seed) -> measures -> intervals -> verdicts

What is measured. The paper compares settings by fine-tuned tasks, and the batches by perplexity
too. Here it is the masked loss on validation rows, the same for all runs (held_out.py), and the
tasks that the recipe gives (scoring.py). Where settings differ in their packing, a loss on the rows
of one of them would favour it: so each pair is compared on the packings that are home to neither,
by the mean of the losses there (comparison.py). It is a stand-in nevertheless, as the paper has no
loss for Tables 1 and 2: where tasks are given, theirs is the verdict to read.

The stores of other packings are built by `python -m pipeline refresh` with the tokenizer of the
recipe's own, and have to hold the same documents. Every run is one of ours: it goes on from its
checkpoint when the command is given again, and what is complete is not done again; a run whose
settings changed is another run, named by them. The recipe's store is built too, if it is not there.

Cost: settings x seeds runs, each of the length that the recipe gives one; the dynamic, the
full-sentences and, where sizes agree, one of the batch runs are the same and made once.
"""

import logging
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import yaml

from corpus.files import check_absolute_in_job, write_bytes
from corpus.recipe import Recipe
from corpus.section import load_section
from corpus.snapshots import Snapshot, open_snapshot, tokenizer_root
from pretrain.checkpoints import checkpoint_home, newest_checkpoint
from pretrain.evaluation.ablation_report import render, show_table
from pretrain.evaluation.arms import (
    AblationRecipe,
    Run,
    Setting,
    check_passes,
    list_runs,
    list_settings,
    packings,
    run_of,
)
from pretrain.evaluation.comparison import Comparison, Measured, compare
from pretrain.evaluation.held_out import held_out_loss
from pretrain.evaluation.scoring import fine_tuned_scores
from pretrain.export import export_once
from pretrain.launch import run_training

logger = logging.getLogger(__name__)

RESULTS, REPORT = "results.json", "report.html"


@dataclass(frozen=True)
class Store:
    """A store in one packing, and the snapshot of it that is trained on."""

    root: str
    snapshot: Snapshot

    def row_tokens(self) -> float:
        """Mean tokens of a training row."""
        entries = [entry for entry in self.snapshot.shards if entry.split == "train"]
        return sum(entry.tokens for entry in entries) / sum(entry.rows for entry in entries)

    def train_rows(self) -> int:
        """Training rows."""
        return sum(entry.rows for entry in self.snapshot.shards if entry.split == "train")


def ablate(path: str, overrides: Sequence[str] = ()) -> str:
    """Make all runs of an ablation, write results and report, and return the tables as text."""
    recipe = load_section(AblationRecipe, path, overrides)
    output = recipe.ablation.output
    check_absolute_in_job("ablation.output", output)
    stores = prepare_stores(recipe)
    check_passes(recipe, stores[recipe.pack.format].train_rows())
    settings = list_settings(recipe, {name: each.row_tokens() for name, each in stores.items()})
    results = _results(recipe, settings, stores)
    comparisons = compare(results, recipe.ablation.confidence)
    values = _values(recipe, stores, results, comparisons)
    data = orjson.dumps(values, option=orjson.OPT_INDENT_2)
    write_bytes(str(Path(output) / RESULTS), data)
    write_bytes(str(Path(output) / REPORT), render(values))
    return show_table(values) + f"\n\nwritten: {output}/{RESULTS}, {output}/{REPORT}"


def _results(
    recipe: AblationRecipe, settings: Sequence[Setting], stores: Mapping[str, Store]
) -> dict[Setting, list[Measured]]:
    """Make every run and list what it came to by setting, in the order of the seeds.

    Only what is compared across packings is measured on the rows of all of them.
    """
    seeds = recipe.ablation.seeds
    fingerprints = {name: each.snapshot.fingerprint for name, each in stores.items()}
    names = {
        setting: [run_of(setting, seed, fingerprints[setting.packing]).name for seed in seeds]
        for setting in settings
    }
    across = {name for setting in settings if setting.table == "formats" for name in names[setting]}
    runs, measured = list_runs(settings, seeds, fingerprints), {}
    for number, run in enumerate(runs, 1):
        logger.info("run %d of %d: %s", number, len(runs), run.name)
        judges = stores if run.name in across else {run.packing: stores[run.packing]}
        measured[run.name] = make_run(recipe, run, stores[run.packing], judges)
    return {setting: [measured[name] for name in names[setting]] for setting in settings}


def prepare_stores(recipe: AblationRecipe) -> dict[str, Store]:
    """Build what is missing of the stores, one a packing; all hold the same documents."""
    own, *others = packings(recipe)
    base = recipe.base
    stores = {own: _build(base, recipe.ablation.output)}
    snapshot = stores[own].snapshot
    tokenizer = tokenizer_root(base.store, snapshot.tokenizer)
    for packing in others:
        changed = base.model_dump()
        changed["store"] = str(Path(recipe.ablation.output, "stores", packing))
        changed["pack"]["format"] = packing
        changed["tokenizer"]["path"] = tokenizer
        stores[packing] = _build(Recipe.model_validate(changed), recipe.ablation.output)
        found = stores[packing].snapshot
        if found.kept_digest != snapshot.kept_digest or found.tokenizer != snapshot.tokenizer:
            raise ValueError(
                f"{stores[packing].root} does not hold the documents or the tokenizer of snapshot "
                f"{snapshot.label} of {base.store}: give a recipe whose sources are all that this "
                "snapshot holds, or a new store"
            )
    return stores


def _build(recipe: Recipe, output: str) -> Store:
    """Run the pipeline on a recipe, which does what is missing; it is a program of its own."""
    path = Path(output) / "recipes" / f"{recipe.pack.format}.yaml"
    write_bytes(str(path), yaml.safe_dump(recipe.model_dump(mode="json")).encode())
    logger.info("store of %s: %s", recipe.pack.format, recipe.store)
    command = [sys.executable, "-m", "pipeline", "refresh", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"`{' '.join(command[1:])}` failed: {last}")
    return Store(recipe.store, open_snapshot(recipe.store, recipe.snapshot))


def make_run(
    recipe: AblationRecipe, run: Run, store: Store, judges: Mapping[str, Store]
) -> Measured:
    """Train a run to its end and measure it on the judges' rows; what is done is only read."""
    directory = Path(recipe.ablation.output) / "runs" / run.name
    trained = recipe.base.model_dump()
    trained["store"], trained["pack"]["format"] = store.root, run.packing
    # What a recipe says of one run would be shared by all; the snapshot to validate on is its own.
    own = {"run": str(directory), "checkpoint_root": None, "validation_snapshot": None}
    trained["pretrain"] = run.pretrain.model_dump() | own
    run_training(Recipe.model_validate(trained))
    losses = _measure(recipe, directory, judges)
    tuning = recipe.ablation.fine_tuning
    if not tuning.tasks:
        return Measured(losses, {})
    checkpoint = export_once(str(directory), run.pretrain.max_steps, str(directory))
    return Measured(losses, fine_tuned_scores(tuning, checkpoint, f"{directory}/tuned"))


def _measure(
    recipe: AblationRecipe, directory: Path, judges: Mapping[str, Store]
) -> dict[str, float]:
    """Give the held-out loss of a complete run on the validation rows of the judges."""
    newest = newest_checkpoint(checkpoint_home(str(directory)))
    assert newest is not None
    path = directory / "held-out.json"
    known = orjson.loads(path.read_bytes()) if path.exists() else {}
    sequences, losses = recipe.ablation.held_out_sequences, {}
    for packing, judge in judges.items():
        key = f"{judge.snapshot.fingerprint}:{sequences}:{newest[1].step}"
        if key not in known:
            known[key] = held_out_loss(*newest, judge.root, judge.snapshot, sequences)
            write_bytes(str(path), orjson.dumps(known))
        losses[packing] = known[key]
    if not all(isinstance(each, float) and math.isfinite(each) for each in losses.values()):
        raise ValueError(f"{directory} ended with the losses {losses}: lower the learning rate")
    return losses


def _values(
    recipe: AblationRecipe,
    stores: Mapping[str, Store],
    results: Mapping[Setting, Sequence[Measured]],
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    """Collect all that was found as plain values."""
    return {
        "seeds": list(recipe.ablation.seeds),
        "confidence": recipe.ablation.confidence,
        "preset": recipe.pretrain.preset,
        "own_packing": recipe.pack.format,
        "stores": {
            name: {
                "root": store.root,
                "snapshot": store.snapshot.label,
                "fingerprint": store.snapshot.fingerprint,
                "train_rows": store.train_rows(),
                "row_tokens": store.row_tokens(),
            }
            for name, store in stores.items()
        },
        "settings": [
            {
                "table": setting.table,
                "name": setting.name,
                "packing": setting.packing,
                "steps": setting.pretrain.max_steps,
                "batch_sequences": setting.pretrain.batch_sequences,
                "learning_rate": setting.pretrain.learning_rate,
                "mask_copies": setting.pretrain.mask_copies,
                "passes": setting.pretrain.max_steps
                * setting.pretrain.batch_sequences
                / stores[setting.packing].train_rows(),
                "losses": [dict(each.losses) for each in found],
                "scores": [dict(each.scores) for each in found],
            }
            for setting, found in results.items()
        ],
        "comparisons": [comparison.as_values() for comparison in comparisons],
    }
