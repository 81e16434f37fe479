"""An owner trains with the network forbidden, offers its expert, and takes it back."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny_run import tiny_peers

from node import exit_codes
from node.cli import run_command_line
from swarm.assembly import load_model
from swarm.model.config import ModelConfig
from swarm.model.hf import save_hf
from swarm.model.transformer import Transformer

LIMIT_S = 120
STEPS = 150
# Refuses every connection, and every name to be looked up, of the program that it runs.
NO_NETWORK = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
from node.cli import run_command_line
sys.exit(run_command_line(sys.argv[1:]))
"""
MODEL = ModelConfig(
    d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=1, top_k=1,
    context_length=32,
)  # fmt: skip


class Ended(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def node(*words: str) -> Ended:
    """Run a command in this process, which has torch loaded already."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = run_command_line(words)
    return Ended(code, out.getvalue(), err.getvalue())


def done(*words: str) -> str:
    ended = node(*words)
    assert ended.code == exit_codes.OK, ended.err
    return ended.out


def done_without_network(*words: str) -> None:
    command = [sys.executable, "-c", NO_NETWORK, *words]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert ended.returncode == exit_codes.OK, ended.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and the trained expert `law`."""
    place = tmp_path_factory.mktemp("isolated")
    tiny_peers(place, 2)
    save_hf(place / "model", MODEL, Transformer(MODEL, seed=1))
    done("base", "make", f"{place}/base", "--from", f"{place}/model", "--data", f"{place}/text-1")
    done_without_network(*train(place, "law"))
    return place


def train(place: Path, name: str) -> list[str]:
    return [
        "expert", "train", "--base", f"{place}/base", "--data", f"{place}/text-0", "--domain", name,
        "--out", f"{place}/{name}", "--steps", f"{STEPS}", "--batch-size", "4",
        "--licence", "CC-BY-4.0",
    ]  # fmt: skip


@contextmanager
def published(place: Path) -> Iterator[str]:
    """`law` is offered; gives the address to ask."""
    log = place / "publish.log"
    words = ["expert", "publish", f"{place}/law", "--base", f"{place}/base"]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", *words, "--listen", "127.0.0.1:0"],
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield line_with(log, "--peer ")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=LIMIT_S) == exit_codes.TERMINATED


def line_with(log: Path, mark: str) -> str:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        found = [line for line in log.read_text().splitlines() if mark in line]
        if found:
            return found[0].partition(mark)[2]
        time.sleep(0.1)
    raise AssertionError(f"{log} has no {mark!r}: {log.read_text()}")


def test_training_used_no_network_and_its_card_says_what_was_done(place: Path) -> None:
    card = json.loads(done("expert", "show", f"{place}/law", "--json"))["card"]
    assert card["domain"] == "law"
    assert card["training"]["steps"] == STEPS
    held_out = card["evaluation"]
    assert held_out["expert_bits_per_byte"] < held_out["base_bits_per_byte"]
    assert "no guarantee" in done("expert", "show", f"{place}/law")
    assert sorted(path.name for path in (place / "law").iterdir()) == [
        "card.json",
        "expert.safetensors",
    ]  # neither the key nor the text


def test_interrupted_training_goes_on_to_the_same_expert(place: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "node", *train(place, "twin")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("step 1/")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=LIMIT_S) == exit_codes.TERMINATED
    assert not (place / "twin").exists()
    done(*train(place, "twin"))
    files = [(place / name / "expert.safetensors").read_bytes() for name in ("law", "twin")]
    assert files[0] == files[1]


def test_an_expert_is_fetched_assembled_withdrawn_and_offered_again(
    place: Path, tmp_path: Path
) -> None:
    base = ["--base", f"{place}/base"]
    fetched = f"{tmp_path}/fetched"
    with published(place) as peer:
        ask = [*base, "--peer", peer]
        offers = json.loads(done("expert", "list", *ask, "--json"))["experts"]
        assert [offer["domain"] for offer in offers] == ["law"]
        done("expert", "fetch", "law", *ask, "--out", fetched)
        done("assemble", *base, "--expert", fetched, "--out", f"{tmp_path}/model")
        model, facts = load_model(tmp_path / "model")
        assert facts["experts"] == ["law"]
        assert model.config.num_experts == 2

        done("expert", "withdraw", f"{place}/law", "--reason", "contract ended")
        line_with(place / "publish.log", "withdrawn")
        refused = node("expert", "fetch", "law", *ask, "--out", fetched)
        assert refused.code == exit_codes.EXPERT
        assert "EXPERT_WITHDRAWN" in refused.err
        assert "contract ended" in refused.err
    words = ["assemble", *base, "--expert", fetched, "--out", f"{tmp_path}/model"]
    assert "EXPERT_WITHDRAWN" in node(*words).err  # the fetched copy knows of it now
    done(*words, "--exclude", "law")
    assert load_model(tmp_path / "model")[0].config.num_experts == 1

    done("expert", "withdraw", f"{place}/law", "--undo")
    done("assemble", *base, "--expert", f"{place}/law", "--out", f"{tmp_path}/model")


@pytest.mark.heavy
def test_every_study_of_an_assembly_has_its_numbers_and_plots(place: Path, tmp_path: Path) -> None:
    done("assemble", "--base", f"{place}/base", "--expert", f"{place}/law", "--out",
         f"{tmp_path}/model")  # fmt: skip
    shown = done(
        "eval", f"{tmp_path}/model", "--data", f"law={place}/text-0",
        "--unseen", f"other={place}/text-1", "--leave-one-out", "--top-k", "1", "--rank", "1",
        "--size", "2", "--switch", "--extract", "--max-tokens", "500",
        "--plots", f"{tmp_path}/plots", "--json",
    )  # fmt: skip
    result = json.loads(shown.splitlines()[-1])
    assert result["domains"]["other"]["unseen"] and not result["domains"]["law"]["unseen"]
    for study in ("leave_one_out", "top_k", "rank", "size", "switch"):
        assert result[study], study
    assert result["extraction"]["law"]["training"]["pieces"] > 0
    assert list((tmp_path / "plots").glob("*.png"))


def test_only_the_owner_withdraws(place: Path) -> None:
    thief = place / "thief.key"
    refused = node("expert", "withdraw", f"{place}/law", "--key", f"{thief}")
    assert refused.code == exit_codes.IDENTITY
    assert "SIGNATURE_INVALID" in refused.err
