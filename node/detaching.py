"""`node start --detach`: a node in the background, without a terminal.

    code = detach([sys.executable, "-m", "node", "start", ...], directory, as_json=False)

Returns when the node takes part or has ended. The new process is the leader of its own session, has
no standard input, and writes what it says to the node's log; what an interpreter prints when it
breaks goes to `start.out` beside that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from node.control_client import ControlClient
from node.exit_codes import OK
from node.log_files import LogReader, log_path
from node.node_files import require_free
from node.paths import make_directory
from swarm.errors import SwarmError
from swarm.files import storage_error

POLL_S = 0.2
WORKING = ("JOINING", "SYNCING", "TRAINING", "AVERAGING", "PAUSED")


def detach(command: Sequence[str], directory: Path, *, as_json: bool) -> int:
    """Start the node of `directory` by a command and say how it goes, until it takes part.

    Who interrupts this only stops watching: the node goes on. Returns the exit code. Raises
    `NODE_ALREADY_RUNNING`, `DIR_NOT_WRITABLE` or `DISK_FULL`.
    """
    log = log_path(directory)
    output = log.with_name("start.out")
    require_free(directory)
    make_directory(log.parent)
    reader = LogReader(log)
    reader.last(0)
    try:
        with open(output, "wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
    except OSError as error:
        raise storage_error(output, error) from error
    while process.poll() is None:
        if not as_json:
            for line in reader.added():
                print(line, flush=True)
        if _works(directory):
            _say(process.pid, directory, log, as_json=as_json)
            return OK
        time.sleep(POLL_S)
    text = output.read_text(encoding="utf-8", errors="replace")
    print(text, end="", file=sys.stdout if as_json else sys.stderr)
    return process.returncode


def _works(directory: Path) -> bool:
    try:
        with ControlClient(directory) as control:
            return control.status().state in WORKING
    except SwarmError:
        return False


def _say(pid: int, directory: Path, log: Path, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"pid": pid, "directory": str(directory), "log": str(log)}))
        return
    print(f"the node runs in the background (process {pid})")
    print(f"  directory  {directory}\n  log        {log}, or: node logs -f")
    print("  stop it    node stop, or node finish after its round")
