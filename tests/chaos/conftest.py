"""Options and reports of the chaos tests.

pytest tests/chaos -m heavy                       once each: what CI runs
pytest tests/chaos -m heavy --repetitions 10      every cell of the fault matrix ten times
pytest tests/chaos -m heavy -k soak --soak-seconds 1800 --soak-seed 7
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_swarm import SwarmPool

ACCOUNTS = pytest.StashKey[list[str]]()
CELLS = pytest.StashKey[dict[str, list[tuple[float, float]]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--repetitions", type=int, default=1, help="times that each cell of the matrix is run"
    )
    parser.addoption("--soak-seconds", type=float, default=300.0, help="length of the soak")
    parser.addoption("--soak-seed", type=int, default=None, help="repeat the faults of a soak")
    parser.addoption(
        "--soak-leak-mib", type=float, default=0.0, help="leak so much in each round: it must fail"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repetition" in metafunc.fixturenames:
        count = metafunc.config.getoption("repetitions", 1)
        metafunc.parametrize("repetition", range(count))


@pytest.fixture(autouse=True)
def no_process_is_left_behind() -> None:
    """In place of the check after each test: a swarm is used by many, and `SwarmPool` checks."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwarmPool]:
    """One swarm for all cells of a module, a new one after a cell that broke it."""
    pool = SwarmPool(lambda: Path(tmp_path_factory.mktemp("swarm")))
    yield pool
    pool.close()


@pytest.fixture
def cell(request: pytest.FixtureRequest) -> list[tuple[float, float]]:
    """Where a cell writes (seconds, bound); the medians are printed at the end."""
    cells = request.config.stash.setdefault(CELLS, defaultdict(list))
    action = "killed" if "killed" in request.node.name else "frozen"
    return cells[f"{action}: {request.node.name.partition('-')[2].rstrip(']')}"]


@pytest.fixture
def account(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are printed at the end, whether the test passed or failed."""
    return request.config.stash.setdefault(ACCOUNTS, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in terminalreporter.config.stash.get(ACCOUNTS, []):
        terminalreporter.write_line(line)
    cells = terminalreporter.config.stash.get(CELLS, {})
    if cells:
        terminalreporter.section("seconds from the fault to the last survivor's commit")
    for name, times in cells.items():
        if times:
            seconds = [taken for taken, _ in times]
            bounds = [bound for _, bound in times]
            line = f"{name:44} n={len(times):<3} median {statistics.median(seconds):6.2f}"
            line += f"  max {max(seconds):6.2f}  bound {statistics.median(bounds):5.2f}"
            terminalreporter.write_line(line)
