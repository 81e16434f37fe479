"""Runs a node's asyncio work in the foreground until it ends, a signal comes, or input closes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from node.exit_codes import OK

Report = Callable[[str], None]
ENDING_SIGNALS = {
    signal.SIGINT: "Ctrl-C",
    signal.SIGTERM: "SIGTERM",
    signal.SIGHUP: "terminal closed",
}


def reporter(*, as_json: bool) -> Report:
    """Prints each line with its time, for people or for programs."""

    def report(line: str) -> None:
        stamp = time.time()
        if as_json:
            print(json.dumps({"time": round(stamp, 3), "message": line}), flush=True)
        else:
            print(f"{time.strftime('%H:%M:%S', time.localtime(stamp))} {line}", flush=True)

    return report


async def serve_until_ended(
    work: Coroutine[Any, Any, None], report: Report, *, stop_on_eof: bool
) -> int:
    """Run `work`; signals and end of input cancel it, so that it cleans up. Returns an exit code.

    Raises what `work` raises.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    exit_codes: list[int] = []

    def end(why: str, code: int) -> None:
        if not exit_codes:  # cancelled once only: a second Ctrl-C must not cut the clean-up short
            report(f"stopping: {why}")
            exit_codes.append(code)
            task.cancel()

    def on_input() -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            loop.remove_reader(sys.stdin.fileno())
            end("standard input closed", OK)

    for number, name in ENDING_SIGNALS.items():
        loop.add_signal_handler(number, end, name, 128 + number)
    if stop_on_eof:
        loop.add_reader(sys.stdin.fileno(), on_input)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return exit_codes[0] if exit_codes else OK
