"""Options of these tests, and what several files of them are given."""

from __future__ import annotations

from pathlib import Path

import pytest
from worker_play import settings_in

from node.worker_messages import WorkerSettings


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cold-starts", type=int, default=12, help="of eight peers, in a row (default: 12)"
    )


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    """What a worker is told, with a small text."""
    return settings_in(tmp_path)
