"""Names of tensors that peers reduce outside a run's fixed fragments: the tags of a `Communicator`.

Pure. A tag comes from another peer, so its form and the size it claims are bounded before anything
is allocated or remembered for it.
"""

from __future__ import annotations

import re

MAX_TAGS = 4096  # that one group may ever have used
MAX_TAG_NUMEL = 1 << 33  # fp32 values
MAX_TAG_WEIGHT = 2.0**53  # of a contribution
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/\-]{0,119}")


def is_tag(name: str, numel: int) -> bool:
    """True when a tensor of `numel` fp32 values may be reduced under `name`."""
    return 0 < numel <= MAX_TAG_NUMEL and _TAG.fullmatch(name) is not None
