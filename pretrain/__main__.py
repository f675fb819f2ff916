"""The command line: `python -m pretrain plan | train | export | explain-step`."""

import argparse
import logging
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

import orjson

from corpus.arguments import INTERRUPTED, parse
from corpus.recipe import Recipe, load_recipe
from pretrain.evaluation import commands as evaluation
from pretrain.explain import ROWS_SHOWN, explain_batch, explain_step
from pretrain.export import export
from pretrain.launch import (
    RankFailedError,
    configure_logging,
    failing_at_once,
    join,
    keep_freed_memory,
    run_training,
)
from pretrain.plan import Question, describe_run, make_plan, show_plan
from pretrain.preemption import EXIT_STATUS, PreemptedError
from pretrain.probe import probe
from pretrain.resume import tell_what_is_kept
from pretrain.writer import CheckpointFailedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user's is one line on stderr and exit status 2."""
    options = parse(_parser(), arguments)
    configure_logging(logging.INFO)
    try:
        _run(options)
    except BrokenPipeError:  # what reads our lines, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, IsADirectoryError, NotADirectoryError) as error:
        print(f"error: {_mistake(error)}", file=sys.stderr)
        return 2
    except (OSError, RankFailedError, CheckpointFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except PreemptedError as error:
        print(error, file=sys.stderr)
        return EXIT_STATUS
    except KeyboardInterrupt as error:
        print(": ".join(["interrupted", *error.args]), file=sys.stderr)
        return INTERRUPTED
    return 0


def _mistake(error: ValueError | OSError) -> str:
    """Tell a mistake; of a path that is of the wrong kind the system says only that it is."""
    if not isinstance(error, OSError) or not error.filename:
        return str(error)
    is_directory = isinstance(error, IsADirectoryError)
    what = "is a directory, expected a file" if is_directory else "lies below a file"
    return f"{error.filename} {what}"


def _run(options: argparse.Namespace) -> None:
    if options.command == "train":
        _train(load_recipe(options.recipe, options.overrides))
    elif options.command == "export":
        export(options.run, options.directory, options.step)
    elif options.command == "plan":
        print(_plan(options))
    elif options.command in evaluation.COMMANDS:
        if shown := evaluation.run(options):
            print(shown)
    else:
        print(_explain(options))


def _train(recipe: Recipe) -> None:
    try:
        run_training(recipe)
    except KeyboardInterrupt:
        with suppress(ValueError, OSError):  # perhaps what it was interrupted for
            raise KeyboardInterrupt(tell_what_is_kept(recipe)) from None
        raise


def _explain(options: argparse.Namespace) -> str:
    if (options.step is None) == (options.batch is None):
        raise ValueError("give a step, or --batch with the number of a batch")
    if options.step is not None:
        return explain_step(options.run, options.step, options.rows)
    return explain_batch(options.run, options.batch, options.rows)


def _plan(options: argparse.Namespace) -> str:
    if not 0 < options.seconds < math.inf:
        raise ValueError(f"--seconds is {options.seconds:g}, expected more than 0")
    if options.price is not None and not 0 <= options.price < math.inf:
        raise ValueError(f"--price is {options.price:g}, expected 0 or more")
    recipe = load_recipe(options.recipe, options.overrides)
    question = Question(
        ranks=_numbers(options.ranks),
        price_per_device_hour=options.price,
        with_store=not options.without_store,
    )
    # What is wrong with the recipe shows before the probe.
    found, shape = describe_run(recipe, question)
    world = join(0, 1, 0)
    timings = None
    if not options.without_probe:
        documents = found["run"]["document_tokens"]
        timings = probe(shape, recipe.pretrain, world, options.seconds, documents)
    plan = make_plan(recipe, question, timings, world)
    if options.json:
        return orjson.dumps(plan, option=orjson.OPT_INDENT_2).decode()
    return show_plan(plan)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(",") if part.strip().isdecimal())
    if not numbers or min(numbers) < 1 or len(numbers) != len(text.split(",")):
        raise ValueError(f"--ranks is {text!r}, expected whole numbers from 1 on, such as 1,8,64")
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pretrain",
        description="A snapshot becomes a model: `plan` says what it needs, `train` makes it, "
        "`export` hands it to transformers, `explain-step` shows any batch.",
    )
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher gives it
    commands = parser.add_subparsers(dest="command", required=True)
    plan = commands.add_parser(
        "plan", help="check a recipe and say what its training needs: memory, time, cost"
    )
    plan.add_argument("recipe", help="YAML file")
    plan.add_argument("overrides", nargs="*", help="section.key=value")
    plan.add_argument(
        "--without-store", action="store_true", help="from the recipe's numbers, without a snapshot"
    )
    plan.add_argument(
        "--without-probe", action="store_true", help="measure nothing: no times, no costs"
    )
    plan.add_argument(
        "--seconds", type=float, default=60, help="about how long to measure (default: 60)"
    )
    plan.add_argument(
        "--ranks",
        default="1,2,4,8,16,32,64",
        help="numbers of devices to forecast for (default: %(default)s)",
    )
    plan.add_argument("--price", type=float, help="of a device for an hour, in any currency")
    plan.add_argument("--json", action="store_true", help="all numbers, for programs")
    train = commands.add_parser(
        "train", help="train as a recipe says; the same command again goes on where it stopped"
    )
    train.add_argument("recipe", help="YAML file")
    train.add_argument("overrides", nargs="*", help="section.key=value")
    export_parser = commands.add_parser(
        "export", help="write a checkpoint as a directory that transformers loads"
    )
    export_parser.add_argument("run", help="output directory of a training run")
    export_parser.add_argument("directory", help="new or empty directory")
    export_parser.add_argument("--step", type=int, help="of the checkpoint; absent: the newest")
    explain = commands.add_parser(
        "explain-step", help="rebuild the global batch of a step and show it"
    )
    explain.add_argument("run", help="output directory of a training run")
    explain.add_argument(
        "step", type=int, nargs="?", help="step, counted from 0 as in metrics.jsonl"
    )
    explain.add_argument("--batch", type=int, help="a batch by its number, as in skipped.json")
    explain.add_argument(
        "--rows", type=int, default=ROWS_SHOWN, help="rows to show (default: %(default)s)"
    )
    evaluation.add_parsers(commands)
    return parser


if __name__ == "__main__":
    keep_freed_memory()
    with failing_at_once():
        sys.exit(main())
