"""Demo domains, read in place from what every installation has: no download, no text committed.

`python` is the standard library's code without docstrings and comment lines, `cpp` the C++ headers
that come with torch, `maths` sympy's docstrings, and `english` the docstrings of the standard
library and networkx and Python's help topics. Python files are parsed, never imported.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sysconfig
import typing
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from swarm.data.documents import DataReport, Extract, SourceFile, list_files
from swarm.errors import Code, SwarmError

# encodings: tables of character codes. pydoc_data: one huge string of English.
SKIPPED_NAMES = frozenset(
    {"test", "tests", "testing", "idle_test", "site-packages", "dist-packages"}
    | {"encodings", "pydoc_data"}
)
MAX_SOURCE_BYTES = 256 << 10  # larger ones are generated


@dataclass(frozen=True)
class DemoDomain:
    """Where a demo domain's files are, and how one becomes documents."""

    files: Callable[[], list[SourceFile]]
    extract: Extract


def demo_domain(name: str) -> DemoDomain:
    """The demo domain called `name`. Raises `DATA_MISSING` naming the known ones."""
    if name not in DEMO_DOMAINS:
        known = ", ".join(f"demo:{known}" for known in DEMO_DOMAINS)
        raise SwarmError(Code.DATA_MISSING, f"there is no demo domain {name!r}", f"known: {known}")
    return DEMO_DOMAINS[name]


def _stdlib_files() -> list[SourceFile]:
    return _tree(Path(sysconfig.get_paths()["stdlib"]), "python/", ".py")


def _cpp_files() -> list[SourceFile]:
    return _tree(_package("torch") / "include", "torch/", ".h")


def _maths_files() -> list[SourceFile]:
    return _tree(_package("sympy"), "sympy/", ".py")


def _english_files() -> list[SourceFile]:
    topics = Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data" / "topics.py"
    extra = list_files(topics) if topics.is_file() else []
    return [*_stdlib_files(), *_tree(_package("networkx"), "networkx/", ".py"), *extra]


def _tree(root: Path, label: str, suffix: str) -> list[SourceFile]:
    return [
        SourceFile(label + file.name, file.path, file.size_bytes, file.modified_ns)
        for file in list_files(root, skipped_names=SKIPPED_NAMES)
        if file.name.endswith(suffix) and 0 < file.size_bytes <= MAX_SOURCE_BYTES
    ]


def _package(name: str) -> Path:
    """Directory of an installed package, found without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SwarmError(
            Code.DATA_MISSING,
            f"the package {name} is not installed, so its demo domain has no text",
            f"install it with: pip install {name}",
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _whole(file: SourceFile, report: DataReport) -> Iterator[bytes]:
    """The file as one document, if it is UTF-8."""
    text = file.path.read_bytes()
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        report.skipped_not_utf8 += 1
        report.note(file.name, "not UTF-8")
        return
    yield text


def _code_only(file: SourceFile, report: DataReport) -> Iterator[bytes]:
    """Python source without docstrings and without lines that are only a comment."""
    tree = _parse(file, report)
    if tree is None:
        return
    dropped: set[int] = set()
    literal: set[int] = set()
    for node in ast.walk(tree):
        lines = range(getattr(node, "lineno", 0), (getattr(node, "end_lineno", 0) or 0) + 1)
        if (docstring := _docstring_node(node)) is not None:
            dropped.update(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
        elif isinstance(node, ast.Constant | ast.JoinedStr) and len(lines) > 1:
            literal.update(lines)
    kept: list[str] = []
    for number, line in enumerate(file.path.read_text(encoding="utf-8").split("\n"), start=1):
        comment = line.lstrip().startswith("#") and number not in literal
        repeated_blank = not line.strip() and kept[-2:] == ["", ""]
        if number not in dropped and not comment and not repeated_blank:
            kept.append(line.rstrip())
    yield "\n".join(kept).strip("\n").encode() + b"\n"


def _docstrings(file: SourceFile, report: DataReport) -> Iterator[bytes]:
    """All docstrings of a Python file as one document; each help topic as its own."""
    tree = _parse(file, report)
    if tree is None:
        return
    if file.name == "topics.py":
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                values = (v.value for v in node.values if isinstance(v, ast.Constant))
                yield from (
                    text.strip().encode() + b"\n" for text in values if isinstance(text, str)
                )
        return
    found = [docstring for node in ast.walk(tree) if (docstring := _docstring_node(node))]
    found.sort(key=lambda node: node.lineno)
    texts = [inspect.cleandoc(node.value) for node in found]
    if texts:
        yield "\n\n".join(texts).encode("utf-8", errors="replace") + b"\n"


class _Docstring(ast.Constant):
    value: str
    lineno: int


def _docstring_node(node: ast.AST) -> _Docstring | None:
    if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return None
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return typing.cast(_Docstring, first.value) if isinstance(first.value.value, str) else None
    return None


def _parse(file: SourceFile, report: DataReport) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other people's invalid escape sequences
            return ast.parse(file.path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        report.skipped_not_utf8 += 1
        report.note(file.name, "not UTF-8")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        report.malformed_lines += 1
        report.note(file.name, "not parsable")
    return None


DEMO_DOMAINS: dict[str, DemoDomain] = {
    "python": DemoDomain(_stdlib_files, _code_only),
    "cpp": DemoDomain(_cpp_files, _whole),
    "maths": DemoDomain(_maths_files, _docstrings),
    "english": DemoDomain(_english_files, _docstrings),
}
