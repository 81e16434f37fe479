"""The testnet in containers, as far as it can be checked without an engine."""

from __future__ import annotations

import importlib.util
import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from node.cli import build_parser

DOCKER = Path(__file__).resolve().parents[2] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def node_commands() -> dict[str, list[str]]:
    """Arguments of `node` in the services that run it, which is the image's own entry point."""
    lines = {
        name: [*service.get("entrypoint", ["node"]), *service["command"]]
        for name, service in SERVICES.items()
        if service["image"].endswith("expertswarm}")
    }
    return {name: line[1:] for name, line in lines.items() if line[0] == "node"}


def test_every_service_gives_node_arguments_that_it_understands() -> None:
    commands = node_commands()
    assert {command[0] for command in commands.values()} >= {"start", "relay"}
    for arguments in commands.values():
        assert callable(build_parser().parse_args(arguments).run)


def test_a_peer_behind_a_router_has_no_other_network_than_its_home() -> None:
    homes = [name for name in COMPOSE["networks"] if name.startswith("home-")]
    assert COMPOSE["networks"]["internet"]["internal"]
    for home in homes:
        inside = {
            name: service["networks"]
            for name, service in SERVICES.items()
            if home in service.get("networks", ()) and name in node_commands()
        }
        assert len(inside) == 1
        assert all(list(networks) == [home] for networks in inside.values())


class FakeEngine:
    """Answers as the engine does, and remembers what it was asked to change."""

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        engine = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(200, {"ExitCode": 0})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                engine.asked.append(f"{self.path} {body}".strip())
                self.answer(404 if "/gone/" in self.path else 200, {"Id": "e1"})

            def answer(self, status: int, content: object) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def address_string(self) -> str:
                return "unix"  # a Unix socket's client has no address to log

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = socketserver.ThreadingUnixStreamServer(str(path), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(tmp_path / "docker.sock")
    yield fake
    fake.server.shutdown()
    fake.server.server_close()


@pytest.fixture
def chaos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", DOCKER / "chaos.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SOCKET", str(tmp_path / "docker.sock"))
    return module


def test_what_was_killed_is_started_again_also_when_chaos_is_stopped(
    engine: FakeEngine, chaos: ModuleType
) -> None:
    with pytest.raises(KeyboardInterrupt), chaos.killed("maths"):
        assert engine.asked == ["/containers/maths/kill?signal=KILL"]
        raise KeyboardInterrupt
    assert engine.asked[1:] == ["/containers/maths/start"]


def test_a_home_that_was_cut_off_is_connected_again(engine: FakeEngine, chaos: ModuleType) -> None:
    with chaos.cut("router-a"):
        assert " down" in engine.asked[0]
    lines = [line for line in engine.asked if "Cmd" in line]
    assert len(lines) == 2 and " up" in lines[1]


def test_an_engine_that_says_no_is_an_error(engine: FakeEngine, chaos: ModuleType) -> None:
    with pytest.raises(OSError, match="404"), chaos.killed("gone"):
        pass
