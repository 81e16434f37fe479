"""Runs the peers alone, all at once, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from node.demo.settings import DOMAINS, DemoSettings
from node.testnet import last_error

POLL_S = 0.5

Progress = Callable[[Mapping[str, Mapping[str, Any]]], None]


class SoloRuns:
    """All domains trained alone at the same time; a context manager that leaves no process."""

    def __init__(
        self,
        settings: DemoSettings,
        manifest_path: Path,
        seconds: Mapping[str, float],
        *,
        save: bool,
    ) -> None:
        self._settings = settings
        self._manifest_path = manifest_path
        self._seconds = seconds
        self._save = save
        self._logs = tempfile.TemporaryDirectory(prefix="solo-")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> SoloRuns:
        for domain in DOMAINS:
            with open(self._log(domain), "wb") as log:
                self._processes[domain] = subprocess.Popen(
                    self._command(domain), stdin=subprocess.PIPE, stdout=log, stderr=log
                )
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
        self._logs.cleanup()

    def wait(self, progress: Progress) -> dict[str, dict[str, Any]]:
        """Wait for all and return the last report of each; `progress` gets those on the way.

        Raises the error of a process that failed.
        """
        while True:
            running = [p for p in self._processes.values() if p.poll() is None]
            reports = {domain: self._last_report(domain) for domain in DOMAINS}
            progress(reports)
            for domain, process in self._processes.items():
                if process.poll():
                    raise last_error(f"{domain} alone", self._log(domain))
            if not running:
                return reports
            time.sleep(POLL_S)

    def _command(self, domain: str) -> list[str]:
        command = [sys.executable, "-m", "node.demo.solo", "--run", str(self._manifest_path)]
        command += ["--data", f"demo:{domain}", "--seconds", f"{self._seconds[domain]:.3f}"]
        command += ["--corpus", str(self._settings.corpus_dir(domain))]
        command += ["--peers", str(len(DOMAINS))]
        if self._save:
            command += ["--out", str(self._settings.solo_dir(domain))]
        return command

    def _log(self, domain: str) -> Path:
        return Path(self._logs.name) / f"{domain}.log"

    def _last_report(self, domain: str) -> dict[str, Any]:
        lines = self._log(domain).read_text(errors="replace").splitlines()
        reports = [line for line in lines if line.startswith("{") and line.endswith("}")]
        return dict(json.loads(reports[-1])) if reports else {}
