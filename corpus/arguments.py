"""A command line whose words may stand before and after options, which argparse alone refuses."""

import argparse
import re
import signal
from collections.abc import Sequence

# The exit status of a command that was ended by Ctrl-C, as shells give it.
INTERRUPTED = 128 + signal.SIGINT


def at_least_one(argument: str) -> int:
    """Read a whole number above 0, as a type for argparse, which tells what is none."""
    number = int(argument)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}, expected 1 or more")
    return number


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse for commands that take any number of overrides, texts or files.

    An override is `key=value`. A word that is not welcome ends the program as argparse does.
    """
    options, rest = parser.parse_known_args(arguments)
    many = [name for name in ("overrides", "texts", "files") if hasattr(options, name)]
    if rest and not (many and all(_is_given(many[0], each) for each in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        setattr(options, many[0], [*getattr(options, many[0]), *rest])
    return options


def _is_given(many: str, argument: str) -> bool:
    is_option = re.match(r"--[A-Za-z]|-\S*$", argument) is not None
    return not is_option and (many != "overrides" or "=" in argument)
