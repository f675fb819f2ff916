"""`python -m pretrain evaluate-run RUN RECIPE`: the checkpoints along a run, over tokens seen.

Each kept checkpoint is measured: the masked loss on validation rows of the run's own snapshot
(held_out.py), on texts of the recipe if it names any (intrinsic.py), and fine-tuned on its tasks
(scoring.py). For the last two it is exported below the run, or below the output where RUN is the
URL of its checkpoints. What was measured is not measured again: results lie beside each other by
checkpoint, under a name made from what was asked. The horizontal axis is tokens seen, summed from
the run's metrics, special tokens included.

A run keeps its newest checkpoints only, unless pretrain.keep_checkpoint_every_steps says more.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field

from corpus.files import checksum, is_remote, write_bytes
from corpus.section import LocalDirectory, Location, Section, load_section
from corpus.snapshots import open_snapshot
from pretrain.checkpoints import checkpoint_home, known_metrics, list_checkpoints
from pretrain.evaluation.drawing import Curve, chart, charts, page, table
from pretrain.evaluation.held_out import held_out_loss
from pretrain.evaluation.intrinsic import measure, open_model
from pretrain.evaluation.scoring import FineTuning, fine_tuned_scores
from pretrain.evaluation.texts import DEFAULT_MAX_BYTES, check_text, read_texts
from pretrain.explain import open_recipe
from pretrain.export import export_once, find_checkpoint
from pretrain.metrics import perplexity

logger = logging.getLogger(__name__)

RESULTS, REPORT = "trajectory.json", "trajectory.html"
# Raised by hand when the same checkpoint and recipe give another number.
VERSION = 1


class Trajectory(Section):
    """What is measured along a run."""

    output: LocalDirectory = Field(description="directory of results and report")
    steps: tuple[int, ...] | None = Field(
        None, description="checkpoints; absent: all that there are"
    )
    held_out_sequences: int = Field(4096, ge=1, description="at most this many validation rows")
    texts: tuple[Location, ...] = Field((), description="text files for perplexity and bits a byte")
    max_text_bytes: int = Field(DEFAULT_MAX_BYTES, ge=1, description="of them, from the beginning")
    words: int = Field(512, ge=0, description="words of them that are told one by one")
    fine_tuning: FineTuning = Field(FineTuning(), description="tasks; absent: none")


def evaluate_run(run: str, path: str, overrides: Sequence[str] = ()) -> str:
    """Measure the checkpoints of a run, write results and report, return the table as text."""
    recipe = load_section(Trajectory, path, overrides)
    for text in recipe.texts:
        check_text(text)
    steps = choose_steps(run, recipe.steps)
    seen = tokens_seen(known_metrics(run, *find_checkpoint(run)))
    points = []
    for number, step in enumerate(steps, 1):
        logger.info("checkpoint %d of %d: step %s", number, len(steps), f"{step:,}")
        points.append({"step": step, "tokens": seen.get(step), **_measure(run, step, recipe)})
    values = {"run": Path(run).name, "points": points}
    data = orjson.dumps(values, option=orjson.OPT_INDENT_2)
    write_bytes(str(Path(recipe.output) / RESULTS), data)
    write_bytes(str(Path(recipe.output) / REPORT), render(values))
    return show_points(points) + f"\n\nwritten: {recipe.output}/{RESULTS}, {recipe.output}/{REPORT}"


def choose_steps(run: str, asked: Sequence[int] | None) -> list[int]:
    """List the steps whose checkpoints are measured, rising; one that is missing is refused."""
    if asked is not None:
        for step in asked:
            find_checkpoint(run, step)
        return sorted(set(asked))
    find_checkpoint(run)
    names = list_checkpoints(checkpoint_home(run))
    return [int(name.rpartition("step-")[2]) for name in names]


def tokens_seen(lines: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Give the tokens seen after so many steps; where metrics lack a step they are not known."""
    sums = accumulate(line["tokens"] for line in lines)
    whole = all(line["step"] == at for at, line in enumerate(lines))
    return dict(enumerate(sums, 1)) if whole else {}


def _measure(run: str, step: int, recipe: Trajectory) -> dict[str, Any]:
    """Measure one checkpoint, or read what was found before."""
    checkpoint, state = find_checkpoint(run, step)
    trained = open_recipe(run)
    snapshot = open_snapshot(trained.store, trained.snapshot)
    asked = {
        "version": VERSION,
        "weights": state.checksums,
        "snapshot": snapshot.fingerprint,
        "texts": [checksum(path) for path in recipe.texts],
        "recipe": recipe.model_dump(
            mode="json", include={"held_out_sequences", "max_text_bytes", "words"}
        ),
    }
    digest = hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
    path = Path(recipe.output) / "points" / f"step-{step:08d}-{digest[:16]}.json"
    exported = None
    if recipe.texts or recipe.fine_tuning.tasks:
        exported = export_once(run, step, recipe.output if is_remote(run) else run)
    if path.exists():
        found: dict[str, Any] = orjson.loads(path.read_bytes())
    else:
        sequences = recipe.held_out_sequences
        loss = held_out_loss(checkpoint, state, trained.store, snapshot, sequences)
        found = {"loss": loss, "perplexity": perplexity(loss), "text": None}
        if exported and recipe.texts:
            texts = read_texts(recipe.texts, recipe.max_text_bytes)
            for reason, count in texts.dropped.items():
                logger.warning("texts: %s dropped: %s", f"{count:,}", reason)
            found["text"] = asdict(measure(open_model(exported), texts.texts, recipe.words))
        write_bytes(str(path), orjson.dumps(found))
    scores = {}
    if exported:
        tuned = str(Path(recipe.output) / "tuned" / f"step-{step:08d}")
        scores = fine_tuned_scores(recipe.fine_tuning, exported, tuned)
    return found | {"scores": scores}


def _columns(points: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Give each measure's values in the order of the checkpoints."""
    columns = {"perplexity on validation rows": [point["perplexity"] for point in points]}
    if points[0]["text"]:
        for name in ("perplexity", "pseudo_perplexity", "bits_per_byte"):
            shown = name.replace("_", " ") + " on texts"
            columns[shown] = [point["text"][name] for point in points]
    for task in points[0]["scores"]:
        columns[f"score on {task}"] = [point["scores"][task] for point in points]
    return columns


def show_points(points: Sequence[Mapping[str, Any]]) -> str:
    """Return a line a checkpoint."""
    columns = _columns(points)
    lines = ["  ".join(["    step", "        tokens", *columns])]
    for at, point in enumerate(points):
        cells = [_show(values[at]).rjust(len(name)) for name, values in columns.items()]
        first = f"{point['step']:8,}", _show(point["tokens"]).rjust(14)
        lines.append("  ".join([*first, *cells]))
    return "\n".join(lines)


def render(values: Mapping[str, Any]) -> bytes:
    """Return the page: a picture a measure over tokens seen, and the table."""
    points, columns = values["points"], _columns(values["points"])
    known = all(point["tokens"] is not None for point in points)
    places = [float(point["tokens"] if known else point["step"]) for point in points]
    across = "tokens seen" if known else "steps (the metrics of the run are not whole)"
    pictures = []
    for name, column in columns.items():
        pairs = [(x, y) for x, y in zip(places, column, strict=True) if y is not None]
        finite = tuple(pair for pair in pairs if math.isfinite(pair[1]))
        pictures.append(chart(f"{name} over {across}", across, [Curve(name, finite)]))
    rows = [
        (f"{point['step']:,}", _show(point["tokens"]), *(_show(c[at]) for c in columns.values()))
        for at, point in enumerate(points)
    ]
    numbers = table("A line a checkpoint", ("step", "tokens seen", *columns), rows)
    title = f"Along the run {values['run']}"
    return page(title, [("Over training", charts(pictures)), ("Numbers", numbers)]).encode()


def _show(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
