"""Options of these tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cold-starts", type=int, default=12, help="of eight peers, in a row (default: 12)"
    )
