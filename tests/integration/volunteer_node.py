"""`node` on a machine whose battery, temperature and use are what a file says.

python volunteer_node.py start --dir DIR ...        # reads DIR/conditions.json at each look
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import node.sensors
from node.limits import Limits
from node.verdict import Conditions

FILE_NAME = "conditions.json"


def from_file(limits: Limits) -> Conditions:
    path = Path(sys.argv[sys.argv.index("--dir") + 1]) / FILE_NAME
    return Conditions(**json.loads(path.read_text())) if path.exists() else Conditions()


if __name__ == "__main__":
    node.sensors.measure = from_file
    from node.__main__ import main

    sys.exit(main())
