"""Entry point of the `node` command: `python -m node --help`."""

from __future__ import annotations

import sys

from node.cli import run_command_line


def main() -> None:
    """Run the command line of this process and exit with its code."""
    sys.exit(run_command_line(sys.argv[1:]))


if __name__ == "__main__":
    main()
