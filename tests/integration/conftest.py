"""Options of these tests, and what several files of them are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from worker_play import Stage, settings_in

from node.worker_messages import WorkerSettings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cold-starts", type=int, default=12, help="of eight peers, in a row (default: 12)"
    )


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
