"""The demo from start to end: measure, swarm, fault drill, assembly, baselines, comparison.

    node demo --seconds 240 --json out.json

Every number comes from this run. It ends with exit code 0 only when the assembled model beats the
initial one on every domain and each peer alone on the average, all peers had equal hashes after
every commit, and the killed peer came back and voted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
import shutil
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.text import Text

from node.commands.run import found_run
from node.demo.baselines import SoloRuns
from node.demo.comparison import Comparison, compare
from node.demo.results import KillDrill, bytes_as_json, find_problems, rounds_as_json
from node.demo.settings import DOMAINS, DemoSettings, demo_manifest
from node.demo.swarm_phase import SwarmPhase
from node.demo.tables import routing_table, score_table
from node.exit_codes import FAILED, OK
from node.paths import make_directory
from node.recorder import Recorder
from node.screen import Screen
from node.swarm_watch import SwarmWatch
from node.testnet import LocalTestnet
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.files import write_atomic

MEASURE_S = 4.0
PACKAGES = ("expertswarm", "torch", "hivemind", "numpy", "protobuf", "grpcio")


def run_demo(seconds: float, json_path: Path | None, out: Path | None, *, plain: bool) -> int:
    """Run everything, show it, and write `json_path` whatever happens; returns the exit code."""
    result: dict[str, Any] = {"ok": False}
    with Screen(plain=plain) as screen:
        directory = _make_directory(out)
        keep = out is not None
        try:
            result = Demo(DemoSettings(seconds, directory), screen).run()
            keep = keep or not result["ok"]
            return OK if result["ok"] else FAILED
        except SwarmError as error:
            keep = True
            result["error"] = str(error)
            raise
        except KeyboardInterrupt:
            result["error"] = "interrupted"
            raise
        finally:
            screen.freeze()
            if keep:
                screen.say(f"models and logs: {directory}")
            else:
                shutil.rmtree(directory, ignore_errors=True)
            if json_path is not None:
                write_atomic(json_path, (json.dumps(result, indent=1) + "\n").encode())
                screen.say(f"results: {json_path}")


class Demo:
    """One run of the demo; each phase is a method, in order."""

    def __init__(self, settings: DemoSettings, screen: Screen) -> None:
        self.settings = settings
        self.screen = screen

    def run(self) -> dict[str, Any]:
        """All phases. Returns the content of out.json; raises what makes going on senseless."""
        started = time.monotonic()
        manifest = self.measure()
        drill, recorder = self.train_swarm(manifest)
        solo_s = {node.name: node.active_s for node in recorder.nodes}
        solo_reports = self.train_alone(solo_s)
        self.screen.say("comparing the models on held-out text")
        comparison = compare(self.settings, manifest, self.screen.say)
        rounds = recorder.rounds()
        problems = find_problems(comparison.scores, rounds, drill)
        self._show(comparison, recorder, problems)
        return {
            "ok": not problems,
            "problems": problems,
            "domains": comparison.scores.by_domain(),
            "rounds": rounds_as_json(rounds),
            "kill": drill.as_json(),
            "bytes": bytes_as_json(recorder),
            "routing": comparison.routing,
            "samples": comparison.samples,
            "tokens": {
                node.name: {
                    "swarm": node.tokens_trained,
                    "solo": solo_reports[node.name].get("tokens", 0),
                }
                for node in recorder.nodes
            },
            "seconds": {
                "total": round(time.monotonic() - started, 1),
                "trained": {peer: round(seconds, 1) for peer, seconds in solo_s.items()},
            },
            "settings": {
                "seconds": self.settings.seconds,
                "run_id": manifest.run_id.hex(),
                "manifest": dataclasses.asdict(manifest),
            },
            "versions": _versions(),
        }

    def measure(self) -> RunManifest:
        """Prepare the corpora, measure how fast this machine trains, and found the run."""
        self.screen.say("preparing the four corpora and measuring this machine")
        trial = self.settings.out / "trial.toml"
        make_directory(self.settings.out)
        found_run(demo_manifest(self.settings.swarm_s, 1.0), trial)
        with SoloRuns(self.settings, trial, dict.fromkeys(DOMAINS, MEASURE_S), save=False) as runs:
            reports = runs.wait(lambda reports: None)
        speeds = [report["tokens_per_second"] for report in reports.values()]
        speed = sum(speeds) / len(speeds)
        manifest = demo_manifest(self.settings.swarm_s, speed)
        manifest = found_run(manifest, self.settings.manifest_path)
        steps = manifest.training.inner_steps
        self.screen.say(f"{speed:.0f} tokens/s per peer, so {steps} steps per round")
        return manifest

    def train_swarm(self, manifest: RunManifest) -> tuple[KillDrill, Recorder]:
        """Train in the swarm, with the fault drill, and assemble while the peers are there."""
        from node.commands.assemble import assemble_run

        settings = self.settings
        root = settings.nodes_dir
        with LocalTestnet(settings.manifest_path, settings.peers, root) as testnet:
            watch = SwarmWatch(testnet, "expertswarm demo", self.screen, settings.swarm_s)
            drill = SwarmPhase(settings, testnet, watch).run()
            watch.phase = "assembling from the peers"
            watch.look()
            addresses = [a for status in testnet.statuses() if status for a in status.addresses]
            self.screen.freeze()
            assemble_run(manifest, addresses, settings.assembled_dir, self.screen.say)
        return drill, watch.recorder

    def train_alone(self, seconds: dict[str, float]) -> dict[str, dict[str, Any]]:
        """Train each domain alone for as long as its peer trained in the swarm."""
        self.screen.say("the same peers, each alone, for the same time")
        last = 0.0

        def progress(reports: Any) -> None:
            nonlocal last
            if time.monotonic() - last > 5 and all(reports.values()):
                last = time.monotonic()
                losses = ", ".join(f"{d} {r['loss']:.2f}" for d, r in reports.items())
                passed = min(report["seconds"] for report in reports.values())
                self.screen.say(f"alone for {passed:.0f} s, loss: {losses}")

        with SoloRuns(self.settings, self.settings.manifest_path, seconds, save=True) as runs:
            return runs.wait(progress)

    def _show(self, comparison: Comparison, recorder: Recorder, problems: list[str]) -> None:
        console = self.screen.console
        holders = {
            expert: node.name
            for node in recorder.nodes
            if node.status is not None
            for expert in node.status.held_experts
        }
        console.print("", score_table(comparison.scores), "")
        console.print(routing_table(comparison.routing, holders), "")
        for domain, sample in comparison.samples.items():
            console.print(Text(f"{domain}:", style="bold"))
            console.print(Text(f"{sample['prompt']}{sample['text']}"), "")
        for problem in problems:
            console.print(Text(f"FAILED: {problem}", style="red"))
        if not problems:
            console.print(Text("all parts succeeded", style="green"))


def _make_directory(out: Path | None) -> Path:
    """The given directory, which must be new or empty, or a temporary one."""
    if out is None:
        return Path(tempfile.mkdtemp(prefix="expertswarm-demo-"))
    if out.exists() and any(out.iterdir()):
        raise SwarmError(Code.USAGE, f"{out} is not empty", "name a new directory with --out")
    make_directory(out)
    return out.absolute()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "machine": platform.platform()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
