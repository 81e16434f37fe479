"""What several files of these tests are given."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lane_nodes import Node


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two peers, each with a data plane that listens."""
    alice, bob = Node(), Node()
    yield alice, bob
    bob.plane.stop()
    alice.plane.stop()
