"""The evaluation commands of `python -m pretrain`: their arguments, and which room does the work.

They stand apart from `__main__.py` so that its file stays one screen a command; each command's work
is imported when it is asked for, so that `train` does not pay for scikit-learn.
"""

import argparse
from typing import Any

COMMANDS = ("perplexity", "fill", "ablate", "evaluate-run")


def add_parsers(commands: Any) -> None:  # noqa: ANN401 - argparse does not export its type
    """Add the commands of this package to those of `python -m pretrain`."""
    perplexity = commands.add_parser(
        "perplexity", help="score a checkpoint on text: masked perplexity and bits a byte"
    )
    perplexity.add_argument("checkpoint", help="exported directory, or any that transformers loads")


def run(options: argparse.Namespace) -> str:
    """Run a command of this package and return what its terminal shows."""
    raise ValueError(f"{options.command} does nothing yet")
