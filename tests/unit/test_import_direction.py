"""Imports go one way, and the library stays a library (DESIGN section 3)."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOUNDATION = {
    "swarm",
    "swarm.aio",
    "swarm.config",
    "swarm.errors",
    "swarm.files",
    "swarm.hashing",
    "swarm.presets",
}
LAYERS = [
    {"swarm.wire", "swarm.identity"},
    {"swarm.network"},
    {"swarm.collective"},
    {"swarm.training", "swarm.experts"},
    {"swarm.assembly", "swarm.inference", "swarm.evaluation"},
    {"swarm.simulation"},
    {"node"},
]
BASE = {"swarm.model", "swarm.data"}  # import none of the others, may be imported by all
MODULES = sorted(
    path
    for folder in ("swarm", "node")
    for path in (ROOT / folder).rglob("*.py")
    if "_pb2" not in path.name
)
NO_ENVIRONMENT = {("os", "environ"), ("os", "getenv"), ("os", "putenv"), ("sys", "exit")}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str:
    """`swarm.network.p2p` -> `swarm.network`; everything of the application is `node`."""
    parts = module.split(".")
    return "node" if parts[0] == "node" else ".".join(parts[:2])


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_modules(path: Path) -> Iterator[str]:
    for item in nodes_of(path):
        if isinstance(item, ast.Import):
            yield from (alias.name for alias in item.names)
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, f"{path}: relative import; write the full name"
            assert item.module is not None
            yield item.module
            if item.module in ("swarm", "node"):
                names = (alias.name for alias in item.names if alias.name != "__version__")
                yield from (f"{item.module}.{name}" for name in names)


def may_import(importer: str, imported: str) -> bool:
    if imported in FOUNDATION or importer == imported:
        return True
    if importer in FOUNDATION:
        return imported in (
            "swarm.errors",
            "swarm.hashing",
            "swarm.model",
        )  # config holds the model's dimensions
    if importer in BASE:
        return False
    if imported in BASE:
        return True
    rank = {package: level for level, packages in enumerate(LAYERS) for package in packages}
    return rank[imported] <= rank[importer]


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_layers_below(path: Path) -> None:
    importer = package_of(module_name(path))
    for imported in imported_modules(path):
        if imported.split(".")[0] in ("swarm", "node"):
            assert may_import(importer, package_of(imported)), f"{path} imports {imported}"


def test_packages_of_one_layer_do_not_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = {}
    for path in MODULES:
        importer = package_of(module_name(path))
        edges.setdefault(importer, set()).update(
            package_of(name) for name in imported_modules(path) if name.startswith("swarm.")
        )
    for package in edges:
        reached, todo = set(), list(edges[package] - {package} - FOUNDATION)
        while todo:
            following = todo.pop()
            if following not in reached:
                reached.add(following)
                todo += edges.get(following, set()) - FOUNDATION
        assert package not in reached, f"{package} imports itself through {reached}"


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_only_the_peer_to_peer_package_knows_hivemind(path: Path) -> None:
    if not module_name(path).startswith("swarm.network.p2p"):
        names = {name.split(".")[0] for name in imported_modules(path)}
        assert "hivemind" not in names


@pytest.mark.parametrize(
    "path", [p for p in MODULES if module_name(p).startswith("swarm")], ids=module_name
)
def test_the_library_has_no_command_line_no_output_and_no_environment(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_modules(path)}
    assert not roots & {"argparse", "rich", "signal"}
    for item in nodes_of(path):
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Name):
            assert item.func.id not in ("print", "exit", "quit", "input"), f"line {item.lineno}"
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name):
            assert (item.value.id, item.attr) not in NO_ENVIRONMENT, f"line {item.lineno}"


def test_the_rules_can_tell_right_from_wrong() -> None:
    assert may_import("node", "swarm.network")
    assert may_import("swarm.collective", "swarm.model")
    assert not may_import("swarm.network", "swarm.collective")
    assert not may_import("swarm.model", "swarm.data")
    assert not may_import("swarm.training", "node")
    assert not may_import("swarm.collective", "swarm.training")
