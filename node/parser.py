"""argparse with our manners: fixed width, typed errors, help with examples.

A verb makes its parser with `add_command`; the fixed width keeps help the same on every terminal.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from swarm.errors import Code, SwarmError

WIDTH = 96

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction["Parser"]
else:
    Verbs = argparse._SubParsersAction


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of descriptions and examples, at one width everywhere."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=WIDTH)


class Parser(argparse.ArgumentParser):
    """Raises `USAGE` instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse for wrong arguments."""
        raise SwarmError(Code.USAGE, message, f"see: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Called by argparse for arguments with choices; names the nearest one."""
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(choices)}"
        raise SwarmError(Code.USAGE, f"{self.prog} has no {value!r}", hint)


def make_parser(description: str, examples: str) -> Parser:
    """The program's parser, before any verb is added."""
    return Parser(
        prog="node",
        description=description,
        epilog=examples,
        formatter_class=Formatter,
        allow_abbrev=False,
    )


def add_command(
    verbs: Verbs,
    name: str,
    summary: str,
    examples: str,
    run: Callable[[argparse.Namespace], int] | None = None,
) -> Parser:
    """Add a verb; `run` gets the parsed arguments and returns the exit code."""
    parser = verbs.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    if run is not None:
        parser.add_argument("--json", action="store_true", help="print JSON for programs")
        parser.set_defaults(run=run)
    return parser


def positive_int(text: str) -> int:
    """Argument type: a whole number above zero."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def port_number(text: str) -> int:
    """Argument type: a TCP port, 0 for any free one."""
    number = int(text) if text.isascii() and text.isdecimal() else -1
    if not 0 <= number < 2**16:
        raise argparse.ArgumentTypeError(f"{text!r} is no port, 0 to 65535")
    return number


def positive_float(text: str) -> float:
    """Argument type: a finite number above zero."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
    return number


def share(text: str) -> float:
    """Argument type: a number between zero and one, neither of both."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def host_and_port(text: str) -> tuple[str, int]:
    """Argument type: HOST:PORT, the host of IPv6 in brackets; port 0 picks a free one."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host.strip("[]"), int(port)
