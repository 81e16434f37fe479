"""The demo of isolated experts from start to end.

    node demo --mode isolated --seconds 120

Exit code 0 only when every promise held: see `promises`.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.text import Text

from node.demo.isolated.owners import (
    BASE_SHARE,
    LENGTH,
    owner_steps,
    public_text,
    train_base,
    train_owners,
    write_base,
)
from node.demo.isolated.programs import Programs
from node.demo.isolated.promises import Bits, Outcome, broken_promises, outcome_table
from node.demo.settings import DOMAINS
from node.exit_codes import FAILED, OK
from node.experts.assembling import AssemblyRequest, assemble_from
from node.experts.folder import add_notice, training_path, write_notice
from node.experts.sharing import visiting
from node.screen import Screen
from swarm.assembly import load_model
from swarm.data import Corpus
from swarm.errors import Code, SwarmError
from swarm.evaluation import bits_per_byte
from swarm.experts.artifact import WEIGHTS_FILE, check_expert, load_card, save_expert
from swarm.experts.base import Base
from swarm.experts.safe_files import read_tensors
from swarm.files import write_atomic
from swarm.model.hf import WEIGHTS
from swarm.model.transformer import Transformer

MEASURED_TOKENS = 30_000
OUT = "cpp"
START_LIMIT_S = 90.0
HEAR_LIMIT_S = 60.0


def run_isolated_demo(
    seconds: float, json_path: Path | None, out: Path | None, *, plain: bool
) -> int:
    """Run everything, show it, write `json_path`; returns the exit code."""
    directory = Path(tempfile.mkdtemp(prefix="isolated-demo-")) if out is None else out
    with Screen(plain=plain) as screen:
        keep = out is not None
        try:
            started = time.monotonic()
            outcome = IsolatedDemo(seconds, directory, screen).run()
            broken = broken_promises(outcome)
            keep = keep or bool(broken)
            screen.console.print("", outcome_table(outcome), "")
            for problem in broken:
                screen.console.print(Text(f"FAILED: {problem}", style="red"))
            if not broken:
                screen.console.print(Text("all promises held", style="green"))
            result: dict[str, Any] = {"ok": not broken, "problems": broken, **outcome.as_json()}
            result["seconds"] = round(time.monotonic() - started, 1)
            if json_path is not None:
                write_atomic(json_path, (json.dumps(result, indent=1) + "\n").encode())
            return FAILED if broken else OK
        except BaseException:
            keep = True
            raise
        finally:
            if keep:
                screen.say(f"models, experts and logs: {directory}")
            else:
                shutil.rmtree(directory, ignore_errors=True)


class IsolatedDemo:
    """One run; each phase is a method, in order."""

    def __init__(self, seconds: float, directory: Path, screen: Screen) -> None:
        self.seconds = seconds
        self.directory = directory
        self.say = screen.say

    def run(self) -> Outcome:
        """All phases. Raises what makes going on senseless."""
        base = self.make_base()
        with Programs(self.directory / "logs") as programs:
            peer = self.publish(programs)
            asyncio.run(self.fetch(base, peer))
            refused = self.withdraw(base, peer)
        return self.compare(base, refused)

    def make_base(self) -> Base:
        """A public base, then four owners who train beside it, alone."""
        self.say("a public base, trained on a little of every domain")
        public = public_text(self.directory / "public")
        base, speed = train_base(public, self.seconds * BASE_SHARE, self.say)
        write_base(base, self._base)
        steps = owner_steps(self.seconds * (1 - BASE_SHARE), speed)
        self.say(f"four owners, each alone on its own text, {steps} steps")
        train_owners(
            self._base, self.directory / "owners", self.directory / "logs", steps, self.say
        )
        return base

    def publish(self, programs: Programs) -> str:
        """Each owner offers its expert; returns the address of the first."""
        self.say("the owners publish")
        peer = ""
        for domain in DOMAINS:
            words = ["expert", "publish", str(self._owner(domain)), "--base", str(self._base)]
            words += ["--listen", "127.0.0.1:0", "--stop-on-eof"]
            programs.start(f"{domain}-publish", words + (["--peer", peer] if peer else []))
            if not peer:
                peer = programs.wait_for_line(f"{domain}-publish", "--peer ", START_LIMIT_S)
        for domain in DOMAINS:
            programs.wait_for_line(f"{domain}-publish", "offering ", START_LIMIT_S)
        return peer

    async def fetch(self, base: Base, peer: str) -> None:
        """Somebody else finds all four and checks them."""
        async with visiting(base.id, [peer], lambda line: None) as visit:
            deadline = time.monotonic() + HEAR_LIMIT_S
            found = await visit.offers()
            while len(found.listed) < len(DOMAINS) and time.monotonic() < deadline:
                await asyncio.sleep(1)
                found = await visit.offers()
            for domain in DOMAINS:
                listed = found.pick(domain)
                weights = await visit.download(listed)
                check_expert(listed.card, weights, base)
                save_expert(self._fetched(domain), listed.card, weights)
                self.say(f"fetched {domain}: {len(weights)} bytes, checked")

    def withdraw(self, base: Base, peer: str) -> bool:
        """Assemble with all; one owner withdraws, which others hear; without it; with it again.

        Returns whether the withdrawn expert was refused.
        """
        self._assemble("all")
        self._tell(OUT, withdrawn=True)
        asyncio.run(self._hear(base, peer, withdrawn=True))
        refused = False
        try:
            self._assemble("refused")
        except SwarmError as error:
            refused = error.code is Code.EXPERT_WITHDRAWN
            self.say(f"refused: {error.message}")
        self._assemble("without", exclude=[OUT])
        self._tell(OUT, withdrawn=False)
        asyncio.run(self._hear(base, peer, withdrawn=False))
        self._assemble("again")
        self._assemble("none", exclude=DOMAINS)
        return refused

    def compare(self, base: Base, refused: bool) -> Outcome:
        """Measure everything on held-out text."""
        self.say("measuring on held-out text")
        experts = {}
        for domain in DOMAINS:
            self._assemble(f"only-{domain}", exclude=[d for d in DOMAINS if d != domain])
            experts[domain] = self._bits(self._model(f"only-{domain}"))
        none = self._model("none")
        tokens = torch.arange(LENGTH).unsqueeze(0)
        return Outcome(
            base=self._bits(base.model),
            experts=experts,
            assembly=self._bits(self._model("all")),
            out=OUT,
            without=self._bits(self._model("without")),
            withdrawal_refused=refused,
            trace_left=self._trace_left("without"),
            returned_equal=self._weights("all") == self._weights("again"),
            none_left_equal=torch.equal(none(tokens).logits_BTV, base.model(tokens).logits_BTV),
        )

    def _tell(self, domain: str, *, withdrawn: bool) -> None:
        owner = self._owner(domain)
        now_ms = int(time.time() * 1000)
        add_notice(owner, load_card(owner), None, withdrawn=withdrawn, reason="", now_ms=now_ms)
        self.say(f"{domain} {'withdraws its expert' if withdrawn else 'offers it again'}")

    async def _hear(self, base: Base, peer: str, *, withdrawn: bool) -> None:
        """Wait until the network says so, and note it beside what was fetched."""
        expert = load_card(self._fetched(OUT)).id
        async with visiting(base.id, [peer], lambda line: None) as visit:
            deadline = time.monotonic() + HEAR_LIMIT_S
            while time.monotonic() < deadline:
                notice = (await visit.offers()).notices.of(expert)
                if notice is not None and notice.withdrawn is withdrawn:
                    write_notice(self._fetched(OUT), notice)
                    return
                await asyncio.sleep(0.5)
        raise SwarmError(Code.STAGE_TIMEOUT, "nobody heard of the owner's notice")

    def _assemble(self, name: str, exclude: Any = ()) -> None:
        experts = [self._fetched(domain) for domain in DOMAINS]
        request = AssemblyRequest(base=self._base, experts=experts, exclude=exclude)
        assemble_from(request, self.directory / "models" / name, lambda line: None)

    def _bits(self, model: Transformer) -> Bits:
        bits = {}
        for domain in DOMAINS:
            corpus = Corpus.open(training_path(self._owner(domain)) / "data")
            bits[domain] = bits_per_byte(model, corpus.valid, LENGTH, limit_tokens=MEASURED_TOKENS)
        return bits

    def _trace_left(self, name: str) -> bool:
        """Whether anything of the expert that is out is in the model's files."""
        signed = load_card(self._fetched(OUT))
        tensors = read_tensors(self._fetched(OUT) / WEIGHTS_FILE, signed.card.weights_bytes)
        traces = [text.encode() for text in (signed.card.owner, signed.card.weights)]
        traces += [tensors[part].tobytes() for part in ("layers.0.row", "layers.0.up_proj.weight")]
        whole, rest = self._files("all"), self._files(name)
        assert all(trace in whole for trace in traces), "the search could not find anything"
        return any(trace in rest for trace in traces)

    def _files(self, name: str) -> bytes:
        paths = sorted((self.directory / "models" / name).iterdir())
        return b"".join(path.read_bytes() for path in paths)

    def _model(self, name: str) -> Transformer:
        return load_model(self.directory / "models" / name)[0]

    def _weights(self, name: str) -> bytes:
        return (self.directory / "models" / name / WEIGHTS).read_bytes()

    @property
    def _base(self) -> Path:
        return self.directory / "base"

    def _owner(self, domain: str) -> Path:
        return self.directory / "owners" / domain

    def _fetched(self, domain: str) -> Path:
        return self.directory / "fetched" / domain
