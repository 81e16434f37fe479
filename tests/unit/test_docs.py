"""What the README and docs/ say of files, tests and commands is there."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli import build_parser
from swarm.errors import SwarmError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```[\w ]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w/.-])(?:swarm|node|tests|proto|docs|docker|\.ci)/[\w./*-]*\w/?")
TEST = re.compile(r"\btest_\w+")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DEFINITION = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def missing_files(text: str) -> list[str]:
    return [name for name in FILE.findall(text) if not list(ROOT.glob(name))]


def anchors(text: str) -> set[str]:
    """Ids of a page's headings, as GitHub makes them."""
    titles = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(text))
    return {title.strip().replace(" ", "-") for title in titles}


def broken_links(page: Path, text: str) -> Iterator[str]:
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists():
            yield link
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield link


def known_tests() -> set[str]:
    files = list((ROOT / "tests").rglob("test_*.py"))
    names = {file.stem for file in files}
    for file in files:
        names.update(DEFINITION.findall(file.read_text(encoding="utf-8")))
    return names


def command_lines(text: str) -> Iterator[list[str]]:
    """Arguments of whole commands: the lines of code blocks that begin with `node`."""
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("node "):
                yield shlex.split(line, comments=True)[1:]


def mentions(text: str) -> Iterator[list[str]]:
    """Arguments of commands inside sentences, which may be incomplete."""
    for span in INLINE.findall(FENCE.sub("", text)):
        if span.startswith("node "):
            yield shlex.split(span)[1:]


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def unknown_part(arguments: list[str]) -> str | None:
    """The first verb or option of a mention that the command line does not have."""
    parser: argparse.ArgumentParser = build_parser()
    for argument in arguments:
        if argument.startswith("--"):
            if argument.partition("=")[0] not in parser._option_string_actions:
                return argument
        elif verbs := verbs_of(parser):
            if argument not in verbs:
                return argument
            parser = verbs[argument]
    return None


@each_page
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    assert missing_files(page.read_text(encoding="utf-8")) == []


@each_page
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    assert list(broken_links(page, page.read_text(encoding="utf-8"))) == []


@each_page
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    assert set(TEST.findall(page.read_text(encoding="utf-8"))) - known_tests() == set()


@each_page
def test_every_command_of_a_page_is_understood(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for arguments in command_lines(text):
        parsed = build_parser().parse_args(arguments)
        assert callable(parsed.run), arguments
    for arguments in mentions(text):
        assert unknown_part(arguments) is None, arguments


def test_the_readme_has_commands_to_check() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = [arguments[0] for arguments in command_lines(text)]
    assert verbs.count("start") == 4
    assert {"run", "status", "assemble", "eval", "generate"} <= set(verbs)


def test_the_checks_can_tell_right_from_wrong() -> None:
    assert missing_files("see swarm/errors.py and swarm/none.py") == ["swarm/none.py"]
    page = ROOT / "README.md"
    assert list(broken_links(page, "[a](#limits) [b](#none) [c](docs/none.md)")) == [
        "#none",
        "docs/none.md",
    ]
    with pytest.raises(SwarmError):
        build_parser().parse_args(next(command_lines("```sh\nnode start --rum R.toml\n```\n")))
    assert unknown_part(["stop", "--now"]) == "--now"
    assert unknown_part(["run", "begin"]) == "begin"
    assert "test_none" not in known_tests()
