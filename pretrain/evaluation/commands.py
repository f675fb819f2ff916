"""The arguments of the evaluation commands of `python -m pretrain`.

What they do is in actions.py, which is imported when one is asked for: `train`, whose ranks import
the command line too, does not wait for transformers and scikit-learn.
"""

import argparse
import importlib
from typing import Any

from pretrain.evaluation.texts import DEFAULT_MAX_BYTES

COMMANDS = ("evaluate", "predict", "perplexity", "fill", "ablate", "evaluate-run")


def add_parsers(commands: Any) -> None:  # noqa: ANN401 - argparse does not export its type
    """Add the commands of this package to those of `python -m pretrain`."""
    evaluate = commands.add_parser(
        "evaluate", help="fine-tune checkpoints on tasks as a recipe says, and compare the scores"
    )
    evaluate.add_argument("recipe", help="YAML file")
    evaluate.add_argument("overrides", nargs="*", help="section.key=value")
    predict = commands.add_parser(
        "predict", help="classify, tag, answer or choose with a fine-tuned model; JSON lines out"
    )
    predict.add_argument("model", help="directory that `evaluate` saved, or transformers loads")
    predict.add_argument("files", nargs="*", help="JSONL, TSV, CoNLL, SQuAD, text; absent: stdin")
    predict.add_argument(
        "--format",
        choices=("text", "jsonl", "tsv", "csv", "conll", "squad", "race"),
        help="absent: by the file's name, stdin by its first line",
    )
    predict.add_argument(
        "--max-examples", type=int, default=1024, help="held at once (default: %(default)s)"
    )
    perplexity = commands.add_parser(
        "perplexity", help="measure a checkpoint on text: perplexity, bits a byte"
    )
    _add_checkpoint(perplexity)
    perplexity.add_argument("files", nargs="+", help="text files of any format that is read")
    perplexity.add_argument(
        "--words", type=int, default=512, help="words told one by one (default: %(default)s)"
    )
    perplexity.add_argument("--seed", type=int, default=0, help="of the masks (default: 0)")
    perplexity.add_argument(
        "--max-bytes", type=int, default=DEFAULT_MAX_BYTES, help="of text (default: %(default)s)"
    )
    perplexity.add_argument("--json", action="store_true", help="for programs")
    fill = commands.add_parser("fill", help="tell the likeliest tokens for each <mask> of a text")
    _add_checkpoint(fill)
    fill.add_argument("texts", nargs="*", help="each with a <mask>; absent: lines of stdin")
    fill.add_argument("--top", type=int, default=5, help="tokens a mask (default: %(default)s)")
    fill.add_argument("--json", action="store_true", help="for programs, a line a text")
    ablate = commands.add_parser(
        "ablate", help="ask the paper's Tables 1 to 3 again; the same command again goes on"
    )
    _add_recipe(ablate)
    trajectory = commands.add_parser(
        "evaluate-run", help="evaluate the checkpoints along a run and draw them over tokens seen"
    )
    trajectory.add_argument("run", help="output directory of a training run")
    _add_recipe(trajectory)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument("overrides", nargs="*", help="section.key=value")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="exported directory, or any that transformers loads")


def run(options: argparse.Namespace) -> str:
    """Run a command of this package and return what its terminal shows."""
    action = importlib.import_module("pretrain.evaluation.actions").ACTIONS[options.command]
    return str(action(options))
