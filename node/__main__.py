"""Entry point of the `node` command: `python -m node --help`."""

from __future__ import annotations

import atexit
import os
import sys

from node.exit_codes import INTERRUPTED


def main() -> None:
    """Run the command line of this process and exit with its code."""
    # gRPC logs every lost connection and failed handshake, and reads this when it is imported.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # numpy's threads wait for one another by spinning. Where training has all cores, the norm of an
    # update takes twenty times as long with two of them as with one.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from node.cli import run_command_line

        code = run_command_line(sys.argv[1:])
    except KeyboardInterrupt:  # while it was being imported
        code = INTERRUPTED
    _leave(code)


def _leave(code: int) -> None:
    """Exit without waiting for threads: one that serves or asks a silent peer may take seconds."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # nobody reads it any more
            continue
    os._exit(code)


if __name__ == "__main__":
    main()
