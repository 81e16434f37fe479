"""Every error code has an entry in docs/errors.md and a class of exit code."""

from __future__ import annotations

import re
from pathlib import Path

from node.exit_codes import EXIT_CODES, exit_code
from swarm.errors import Code

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
ENTRY = re.compile(r"^### (\w+)\n\n(.+?)(?=\n#|\Z)", re.MULTILINE | re.DOTALL)


def test_every_code_is_documented_once_and_no_other() -> None:
    documented = [name for name, _ in ENTRY.findall(PAGE.read_text(encoding="utf-8"))]
    assert sorted(documented) == sorted(code.value for code in Code)


def test_every_entry_tells_the_cause_and_what_to_do() -> None:
    for name, body in ENTRY.findall(PAGE.read_text(encoding="utf-8")):
        assert "Cause: " in body, name
        assert "What to do: " in body, name


def test_every_exit_code_is_in_the_table_of_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for number, meaning in EXIT_CODES.items():
        assert f"| {number} | {meaning} |" in text


def test_every_code_has_an_exit_code_that_is_not_success() -> None:
    for code in Code:
        assert exit_code(code) in EXIT_CODES
        assert exit_code(code) != 0
