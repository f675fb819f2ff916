"""The command line: `python -m pretrain train | export | explain-step`."""

import argparse
import logging
import sys
from collections.abc import Sequence

from corpus.recipe import load_recipe
from pretrain.explain import explain_step
from pretrain.export import export
from pretrain.launch import RankFailedError, configure_logging, run_training
from pretrain.preemption import EXIT_STATUS, PreemptedError
from pretrain.writer import CheckpointFailedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one line on stderr and exit status 2."""
    options = _parser().parse_args(arguments)
    configure_logging(logging.INFO)
    try:
        _run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RankFailedError, CheckpointFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except PreemptedError as error:
        print(error, file=sys.stderr)
        return EXIT_STATUS
    return 0


def _run(options: argparse.Namespace) -> None:
    if options.command == "train":
        run_training(load_recipe(options.recipe, options.overrides))
    elif options.command == "export":
        export(options.run, options.directory)
    else:
        print(explain_step(options.run, options.step))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pretrain", description=__doc__)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher gives it
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser(
        "train", help="train as a recipe says; the same command again goes on where it stopped"
    )
    train.add_argument("recipe", help="YAML file")
    train.add_argument("overrides", nargs="*", help="section.key=value")
    export_parser = commands.add_parser(
        "export", help="write the newest checkpoint as a directory that transformers loads"
    )
    export_parser.add_argument("run", help="output directory of a training run")
    export_parser.add_argument("directory", help="new or empty directory")
    explain = commands.add_parser(
        "explain-step", help="rebuild the global batch of a step and show it"
    )
    explain.add_argument("run", help="output directory of a training run")
    explain.add_argument("step", type=int, help="step, counted from 0 as in metrics.jsonl")
    return parser


if __name__ == "__main__":
    sys.exit(main())
