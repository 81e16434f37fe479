"""The command line: finds the verb, runs it, and shows what went wrong in one line.

    node --help              the verbs
    node start --help        one of them, with examples

Each verb is a file in node/commands with `register` (its arguments) and `run` (returns the exit
code). Heavy imports happen inside `run`, so that help and usage errors are instant.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from types import FrameType

from node import exit_codes
from node.commands import (
    assemble,
    base,
    contributions,
    dashboard,
    demo,
    doctor,
    evaluate,
    expert,
    export_model,
    finish,
    generate,
    import_model,
    limits,
    logs,
    pause,
    relay,
    resume,
    run,
    start,
    status,
    stop,
    testnet,
)
from node.parser import Parser, make_parser
from swarm.errors import Code, SwarmError

VOLUNTEERS = (pause, resume, finish, limits, logs)
COMMANDS = (
    run, start, relay, status, dashboard, contributions, doctor, stop, *VOLUNTEERS, testnet, base,
    expert, assemble, evaluate, generate, export_model, import_model, demo,
)  # fmt: skip
TRACEBACK_VARIABLE = "EXPERTSWARM_TRACEBACK"

DESCRIPTION = """\
Train one mixture-of-experts language model on many people's machines.
Each peer holds some experts and trains them on its own text, which never leaves it."""

EXAMPLES = """\
examples:
  node demo                                        see all of it on this machine
  node run init RUN.toml                           found a run
  node start --run RUN.toml --data texts --domain law
  node start --run RUN.toml --data demo:maths --domain maths --peer ADDRESS
  node status                                      what it does now, and why"""


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP; handled like Ctrl-C so that everything is cleaned up."""


def build_parser() -> Parser:
    """The parser with all verbs."""
    parser = make_parser(DESCRIPTION, EXAMPLES)
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(verbs)
    return parser


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code; all errors are printed, none is raised."""
    as_json = "--json" in arguments
    _treat_termination_as_interrupt()
    try:
        parsed = build_parser().parse_args(arguments)
        code: int = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except SwarmError as error:
        return report_error(error, as_json)
    except Terminated:
        return exit_codes.TERMINATED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return exit_codes.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exit_codes.OK
    except Exception as error:
        if TRACEBACK_VARIABLE in os.environ:
            traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        hint = f"a bug; set {TRACEBACK_VARIABLE}=1 and report what it prints"
        return report_error(SwarmError(Code.INTERNAL, message, hint), as_json)


def report_error(error: SwarmError, as_json: bool = False) -> int:
    """Print an error as every program here does and return the exit code for it."""
    if as_json:
        fields = {"code": error.code.value, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": fields}), flush=True)
    print(f"error {error.code.value}: {_one_line(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"  {_one_line(error.hint)}", file=sys.stderr)
    return exit_codes.exit_code(error.code)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _treat_termination_as_interrupt() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise_terminated)
        signal.signal(signal.SIGHUP, _raise_terminated)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated
