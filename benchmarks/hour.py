"""What a small model learns from prose in an hour on this machine's CPU, as numbers and a picture.

`python -m benchmarks.hour DATA OUT --minutes 60` builds OUT/store from the JSON-lines files of DATA
(recipes/hour.yaml), takes 20 steps in OUT/trial to see how long one lasts, trains as many as the
time allows in OUT/run, and writes OUT/hour.json and OUT/hour.svg: loss and validation loss over
tokens, with the unigram entropy of the validation tokens, the least loss of a model that reads no
context. The clock is that of the steps and of validation; building the store is not in it.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from corpus.recipe import Recipe, Source, load_recipe
from corpus.snapshots import open_snapshot
from demo.summary import count_tokens, unigram_entropy
from pipeline.refresh import refresh
from pretrain.launch import keep_freed_memory, run_training
from pretrain.memory import parameter_count
from pretrain.metrics import read_metrics
from pretrain.plan import Question, describe_run

_RECIPE = Path(__file__).parent.parent / "recipes" / "hour.yaml"
_TRIAL_STEPS = 20
_VALIDATIONS = 40  # points of the curve
_SMOOTHED = 50  # steps of which the training curve shows the mean

_WIDTH, _HEIGHT = 720, 420
_LEFT, _TOP, _RIGHT, _BOTTOM = 56, 40, 16, 48

Points = Sequence[tuple[float, float]]


def make_recipe(data: Path, out: Path, minutes: float, seconds_a_step: float) -> Recipe:
    """Fit the recipe to a directory and to the steps that the time allows."""
    recipe = load_recipe(str(_RECIPE))
    steps = max(_VALIDATIONS, round(minutes * 60 / seconds_a_step))
    every = max(1, steps // _VALIDATIONS)
    training = recipe.pretrain.model_copy(
        update={
            "run": str(out / "run"),
            "max_steps": steps,
            "warmup_steps": steps // 20,
            "validate_every_steps": every,
            "checkpoint_every_steps": max(1, steps // 4),
        }
    )
    by_source: dict[str, list[str]] = {}
    for path in sorted(map(str, data.glob("*.jsonl.*"))):
        by_source.setdefault(Path(path).name.split("-")[0], []).append(path)
    sources = tuple(Source(name=name, paths=tuple(each)) for name, each in by_source.items())
    return recipe.model_copy(
        update={"store": str(out / "store"), "sources": sources, "pretrain": training}
    )


def time_a_step(recipe: Recipe, out: Path) -> float:
    """Take a few steps in a run of their own; give the median of their seconds."""
    trial = recipe.pretrain.model_copy(
        update={
            "run": str(out / "trial"),
            "max_steps": _TRIAL_STEPS,
            "warmup_steps": 1,
            "validate_every_steps": _TRIAL_STEPS,
            "checkpoint_every_steps": _TRIAL_STEPS,
        }
    )
    run_training(recipe.model_copy(update={"pretrain": trial}))
    return float(statistics.median(line["seconds"] for line in read_metrics(str(out / "trial"))))


def curves(metrics: Sequence[dict[str, Any]]) -> tuple[list[tuple[float, float]], ...]:
    """Give (tokens, loss) of training, in means of some steps, and of validation."""
    training, validation = [], []
    tokens = 0
    window: list[float] = []
    for line in metrics:
        tokens += line["tokens"]
        window.append(line["loss"])
        if len(window) == _SMOOTHED or line is metrics[-1]:
            training.append((float(tokens), statistics.fmean(window)))
            window = []
        if "validation_loss" in line:
            validation.append((float(tokens), line["validation_loss"]))
    return training, validation


def draw(path: Path, title: str, training: Points, validation: Points, level: float) -> None:
    """Write both curves and the level of a model without context as an SVG."""
    end = max(x for x, _ in (*training, *validation))
    low = min(y for _, y in (*training, *validation, (0.0, level)))
    high = max(y for _, y in (*training, *validation))

    def place(x: float, y: float) -> tuple[float, float]:
        right = _LEFT + (_WIDTH - _LEFT - _RIGHT) * x / end
        down = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - y) / (high - low or 1)
        return round(right, 1), round(down, 1)

    def line(points: Points, style: str) -> str:
        joined = " ".join(f"{x},{y}" for x, y in (place(*point) for point in points))
        return f'<polyline points="{joined}" fill="none" {style}/>'

    def text(x: float, y: float, words: str, rest: str = "") -> str:
        return f'<text x="{x}" y="{y}" {rest}>{words}</text>'

    parts = [
        text(_LEFT, 20, title, 'font-weight="bold"'),
        line([(0, level), (end, level)], 'stroke="#777" stroke-dasharray="5 3"'),
        text(_WIDTH - _RIGHT, place(end, level)[1] - 5, f"unigram entropy {level:.2f}", _END),
        line(training, 'stroke="#6baed6" stroke-width="1.5"'),
        line(validation, 'stroke="#c44601" stroke-width="2"'),
        text(_WIDTH - _RIGHT, place(*validation[-1])[1] + 16, f"{validation[-1][1]:.2f}", _END),
        text(_WIDTH - _RIGHT, _TOP + 4, "blue: training, orange: validation", _END),
        text(_WIDTH - _RIGHT, _HEIGHT - 12, "million tokens", _END),
        text(_LEFT, _TOP - 4, "loss, nats a masked token"),
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = low + share * (high - low)
        parts.append(text(_LEFT - 6, place(0, y)[1] + 4, f"{y:.1f}", _END))
        where = place(share * end, low)[0]
        parts.append(text(where, _HEIGHT - 28, f"{share * end / 1e6:.1f}", 'text-anchor="middle"'))
    size = f'width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif"'
    ground = '<rect width="100%" height="100%" fill="#fff"/>'
    path.write_text(f'{head} font-size="12">\n' + "\n".join([ground, *parts]) + "\n</svg>\n")


_END = 'text-anchor="end"'


def main() -> int:
    """Build, try, train, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parsed = parser.parse_args()
    keep_freed_memory()  # as the command does
    data, out = parsed.data.absolute(), parsed.out.absolute()
    recipe = make_recipe(data, out, 1, 1)
    training = recipe.pretrain.model_copy(update={"processes": parsed.processes})
    refresh(recipe)
    seconds = time_a_step(recipe.model_copy(update={"pretrain": training}), out)
    recipe = make_recipe(data, out, parsed.minutes, seconds)
    training = recipe.pretrain.model_copy(update={"processes": parsed.processes})
    recipe = recipe.model_copy(update={"pretrain": training})
    start = time.monotonic()
    run_training(recipe)
    elapsed = time.monotonic() - start
    result = summarize(recipe, elapsed)
    out.joinpath("hour.json").write_bytes(orjson.dumps(result, option=orjson.OPT_INDENT_2))
    title = f"{result['parameters'] / 1e6:.1f} million parameters, {elapsed / 60:.0f} minutes"
    level = result["unigram_entropy"]
    draw(out / "hour.svg", title, result["training"], result["validation"], level)
    shown = {name: value for name, value in result.items() if not isinstance(value, list)}
    print(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode())
    return 0


def summarize(recipe: Recipe, elapsed: float) -> dict[str, Any]:
    """Collect the curve and what it was made with."""
    config = recipe.pretrain
    metrics = read_metrics(str(config.run))
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    found, shape = describe_run(recipe, Question())
    training, validation = curves(metrics)
    seconds = sum(line["seconds"] for line in metrics)
    tokens = sum(line["tokens"] for line in metrics)
    return {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "parameters": parameter_count(shape),
        "steps": len(metrics),
        "passes": found["data"]["passes"],
        "tokens": tokens,
        "minutes": round(elapsed / 60, 2),
        "tokens_per_second": round(tokens / seconds, 1),
        "data_wait_share": round(sum(line["data_wait_seconds"] for line in metrics) / seconds, 4),
        "flops_per_second": round(sum(line["flops"] for line in metrics) / seconds),
        "unigram_entropy": round(
            unigram_entropy(count_tokens(snapshot.tree(recipe.store), snapshot, "validation")), 4
        ),
        "validation_loss": round(validation[-1][1], 4),
        "best_validation_loss": round(min(loss for _, loss in validation), 4),
        "training": training,
        "validation": validation,
    }


if __name__ == "__main__":
    sys.exit(main())
