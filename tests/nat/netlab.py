"""`Lab`: an internet of network namespaces, with real NAT, that no packet leaves.

    with Lab.up() as lab:
        lab.run("a", ["ip", "addr"])                  # a program on a host, to its end
        node = lab.popen("c", [sys.executable, ...])  # one that goes on
        peer = lab.loop("b")                          # an event loop that lives on a host
        lab.set_conditions(between(round_trip_ms=50, loss=0.01))
        before = lab.traffic("pub1")

A lab belongs to the process that made it, by a lock that the kernel takes back when it dies: what a
crash leaves is removed when the next lab comes up. Only one made with `keep` waits for its `down`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.nat import netns, topology
from tests.nat.conditions import Conditions, impair, limit_rate, relieve
from tests.nat.netns import STATE, NamespaceLoop, batch, checked

NAME = re.compile(r"[a-z0-9]{1,16}")
KEPT = b"kept"


class Lab:
    """A lab that is up. Hosts and sites are named as in `topology`.

    Attributes:
        name: tells this lab from others on the machine.
        names: the full name of each namespace.
    """

    def __init__(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a lab: a to z and 0 to 9, at most 16")
        self.name = name
        self.names = {short: full_name(name, short) for short in topology.NAMESPACES}
        self._loops: list[NamespaceLoop] = []
        self._lock: Any = None

    # ---- life ----

    @classmethod
    def up(cls, name: str = "", *, keep: bool = False) -> Lab:
        """Build a lab, after removing what dead owners left; with `keep` it outlives this process.

        Raises `FileExistsError` for a name in use, `RuntimeError` with what a command said.
        """
        sweep()
        lab = cls(name or f"p{os.getpid()}")
        lab._claim(keep)
        try:
            lab._build()
        except BaseException:
            lab.down()
            raise
        return lab

    def down(self) -> None:
        """End what runs in the lab and remove it. Can be called again."""
        for loop in self._loops:
            loop.close()
        self._loops.clear()
        remove(self.name)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.down()

    def _claim(self, keep: bool) -> None:
        with _alone():
            if self.name in labs():
                raise FileExistsError(f"there is a lab {self.name!r} already")
            self._lock = _lock_file(self.name).open("w+b", buffering=0)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if keep:
                self._lock.write(KEPT)

    def _build(self) -> None:
        batch(f"netns add {full}" for full in self.names.values())
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(self._prepare, self.names))
            batch(topology.wiring(self.names))
            list(threads.map(self._settle, self.names))

    def _prepare(self, namespace: str) -> None:
        with self.inside(namespace):
            for scope in ("all", "default"):
                Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6").write_text("1")
            forwards = "1" if topology.forwards(namespace) else "0"
            Path("/proc/sys/net/ipv4/ip_forward").write_text(forwards)

    def _settle(self, namespace: str) -> None:
        batch(topology.settings(namespace), self.names[namespace])
        if rules := topology.rules(namespace):
            with self.inside(namespace):
                checked(["nft", "-f", "-"], rules)

    # ---- being on a host ----

    def inside(self, host: str) -> contextlib.AbstractContextManager[None]:
        """Put the calling thread, and what it starts, on a host for a while."""
        return netns.inside(self.names[host])

    def run(
        self, host: str, command: list[str], limit_s: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on a host to its end; its exit status is the caller's to check."""
        with self.inside(host):
            return subprocess.run(command, capture_output=True, text=True, timeout=limit_s)

    def popen(self, host: str, command: list[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a program on a host; it is there from its first instruction on."""
        with self.inside(host):
            return subprocess.Popen(command, **options)

    def loop(self, host: str) -> NamespaceLoop:
        """An event loop that lives on a host until the lab is down."""
        self._loops.append(NamespaceLoop(self.names[host]))
        return self._loops[-1]

    # ---- the links ----

    def cut(self, site: str) -> None:
        """Cut a site's link to the internet; its hosts see no interface go down."""
        batch([f"link set dev {site} down"], self._internet)

    def restore(self, site: str) -> None:
        """Mend a link that was cut."""
        batch([f"link set dev {site} up"], self._internet)

    def limit_rate(self, site: str, *, up_mbit: float = 0.0, down_mbit: float = 0.0) -> None:
        """Limit a site's link, in Mbit/s; 0 is without a limit."""
        limit_rate(*self._uplink(site), up_mbit)
        limit_rate(self._internet, site, down_mbit)

    def set_conditions(self, how: Conditions, sites: Iterable[str] = topology.SITES) -> None:
        """Give links latency, jitter and loss. Frames on their way in that moment are lost."""
        for number, site in enumerate(sites):
            own = Conditions(how.delay_ms, how.jitter_ms, how.loss, how.seed + number)
            impair(self._internet, site, self._uplink(site), own)

    def clear_conditions(self) -> None:
        """Take latency, jitter and loss from all links."""
        for site in topology.SITES:
            relieve(self._internet, site)

    @contextlib.contextmanager
    def conditions(self, how: Conditions, sites: Iterable[str] = topology.SITES) -> Iterator[None]:
        """Latency, jitter and loss for as long as the context lasts."""
        try:
            self.set_conditions(how, sites)
            yield
        finally:
            self.clear_conditions()

    def traffic(self, *sites: str) -> int:
        """Bytes that went over the links of these sites since the lab came up, both ways."""
        links = json.loads(checked(["ip", "-j", "-s", "-n", self._internet, "link", "show"]))
        return sum(
            link["stats64"][way]["bytes"]
            for link in links
            if link["ifname"] in sites
            for way in ("rx", "tx")
        )

    @property
    def _internet(self) -> str:
        return self.names[topology.INTERNET]

    def _uplink(self, site: str) -> tuple[str, str]:
        namespace, interface = topology.uplink_of(site)
        return self.names[namespace], interface


def full_name(lab: str, namespace: str) -> str:
    """How a namespace of a lab is named on this machine."""
    return f"nat-{lab}-{namespace}"


def labs() -> list[str]:
    """The labs of this machine, whoever made them, half-built ones too."""
    return sorted(path.stem for path in STATE.glob("*.lock"))


def remove(lab: str) -> None:
    """End what runs in a lab and remove its namespaces."""
    here = sorted(path.name for path in netns.NAMES.glob(full_name(lab, "*")))
    netns.end(netns.processes_in(here))
    batch(f"netns del {name}" for name in here)
    _lock_file(lab).unlink(missing_ok=True)


def sweep() -> list[str]:
    """Remove the labs whose owners are gone; their names."""
    swept = []
    with _alone():
        for lab in labs():
            with _lock_file(lab).open("r+b") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue  # its owner lives
                if lock.read() != KEPT:
                    remove(lab)
                    swept.append(lab)
    return swept


def _lock_file(lab: str) -> Path:
    """What the owner of a lab holds locked. The kernel unlocks it however the owner ends."""
    return STATE / f"{lab}.lock"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One process at a time: a lab that is being claimed looks like one whose owner is gone."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "all").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
