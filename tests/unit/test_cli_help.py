"""The help of every verb is frozen; `python tests/unit/test_cli_help.py` writes the files anew."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from node import exit_codes
from node.cli import run_command_line

GOLDEN = Path(__file__).parent / "golden" / "help"
VERBS = {
    "node": [],
    **{
        verb: [verb]
        for verb in (
            "start", "relay", "doctor", "status", "dashboard", "contributions", "stop", "pause",
            "resume", "finish", "limits", "logs", "testnet", "assemble", "eval", "generate",
            "export", "import", "demo", "run", "base", "expert",
        )
    },
    **{
        f"run-{action}": ["run", action]
        for action in (
            "init", "validate", "ticket", "set", "pause", "resume", "revoke", "end", "export",
            "import",
        )
    },
    "base-make": ["base", "make"],
    **{
        f"expert-{action}": ["expert", action]
        for action in ("train", "show", "withdraw", "publish", "list", "fetch", "proxies")
    },
}  # fmt: skip


def help_of(words: list[str]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as ended:
        run_command_line([*words, "--help"])
    assert ended.value.code == exit_codes.OK
    return output.getvalue()


@pytest.mark.parametrize("name", VERBS)
def test_help_is_as_recorded(name: str) -> None:
    assert help_of(VERBS[name]) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", VERBS)
def test_help_shows_examples_and_fits_100_columns(name: str) -> None:
    text = help_of(VERBS[name])
    assert "examples:\n  node " in text
    assert max(len(line) for line in text.splitlines()) <= 100


@pytest.mark.parametrize(
    "name", [name for name in VERBS if name not in ("node", "run", "base", "expert")]
)
def test_every_verb_has_json(name: str) -> None:
    assert "--json" in help_of(VERBS[name])


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name, words in VERBS.items():
        (GOLDEN / f"{name}.txt").write_text(help_of(words), encoding="utf-8")
