"""One network lab for all tests of this directory, verified before the first of them runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.nat import netns, stun
from tests.nat.netlab import Lab


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cold-starts", type=int, default=12, help="of eight peers (default: 12)")
    parser.addoption("--start-seed", type=int, default=None, help="repeat the orders of a time")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    if reason := netns.missing():
        if os.environ.get("REQUIRE_NETNS") == "1":
            pytest.fail(f"REQUIRE_NETNS is set, but {reason}")
        pytest.skip(f"no network lab here: {reason}")
    with Lab.up() as lab:
        found = stun.check(lab)
        assert found == stun.EXPECTED, f"a NAT is not what it should be:\n{stun.table(found)}"
        yield lab
