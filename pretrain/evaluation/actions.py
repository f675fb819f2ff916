"""What each evaluation command does with its arguments, and what its terminal shows."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import orjson

from pretrain.evaluation.ablate import ablate
from pretrain.evaluation.evaluate import run_evaluation
from pretrain.evaluation.intrinsic import fill, measure, open_model
from pretrain.evaluation.predict import predict_files
from pretrain.evaluation.recipe import load_evaluation
from pretrain.evaluation.texts import read_texts
from pretrain.evaluation.trajectory import evaluate_run


def _perplexity(options: argparse.Namespace) -> str:
    if options.words < 0 or options.max_bytes < 1:
        raise ValueError("--words is 0 or more, --max-bytes 1 or more")
    texts = read_texts(options.files, options.max_bytes)
    found = asdict(
        measure(open_model(options.checkpoint), texts.texts, options.words, options.seed)
    )
    values = found | {"dropped": dict(texts.dropped), "is_cut": texts.is_cut}
    if options.json:
        return orjson.dumps(values, option=orjson.OPT_INDENT_2).decode()
    return "\n".join(f"{name:18} {_show(value)}" for name, value in values.items())


def _show(value: Any) -> str:  # noqa: ANN401 - any value of a result
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {name}" for name, count in value.items()) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4f}"


def _fill(options: argparse.Namespace) -> str:
    if options.top < 1:
        raise ValueError(f"--top is {options.top}, expected 1 or more")
    model = open_model(options.checkpoint)
    lines = []
    for text in options.texts or filter(None, map(str.strip, sys.stdin)):
        masks = fill(model, text, options.top)
        if options.json:
            values = {"text": text, "masks": [[each._asdict() for each in mask] for mask in masks]}
            lines.append(orjson.dumps(values).decode())
            continue
        lines.append(text)
        for number, mask in enumerate(masks, 1):
            lines += [f"  {number}  {each.probability:8.4f}  {each.token!r}" for each in mask]
    return "\n".join(lines)


def _evaluate(options: argparse.Namespace) -> str:
    return run_evaluation(load_evaluation(options.recipe, options.overrides))


def _predict(options: argparse.Namespace) -> str:
    lines = predict_files(options.model, options.files, options.format, options.max_examples)
    for line in lines:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return ""


def _ablate(options: argparse.Namespace) -> str:
    return ablate(options.recipe, options.overrides)


def _evaluate_run(options: argparse.Namespace) -> str:
    return evaluate_run(options.run, options.recipe, options.overrides)


ACTIONS: Mapping[str, Callable[[argparse.Namespace], str]] = {
    "perplexity": _perplexity,
    "fill": _fill,
    "evaluate": _evaluate,
    "predict": _predict,
    "ablate": _ablate,
    "evaluate-run": _evaluate_run,
}
