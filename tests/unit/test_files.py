"""Files that are written in one step."""

from __future__ import annotations

import os
from pathlib import Path

from swarm.files import write_atomic


def test_a_file_written_in_one_step_is_as_private_as_the_umask_says(tmp_path: Path) -> None:
    for mask, mode in ((0o077, 0o600), (0o022, 0o644)):
        before = os.umask(mask)
        try:
            write_atomic(tmp_path / "file", b"text")
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode
