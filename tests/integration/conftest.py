"""What several files of these tests are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_play import Stage, settings_in

from node.worker_messages import WorkerSettings


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    """What a worker is told, with a small text."""
    return settings_in(tmp_path)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A worker for those tests of a file that need none of their own."""
    made = Stage()
    yield made
    made.close()
