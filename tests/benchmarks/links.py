"""Network namespaces on one bridge, each with its own bandwidth limit, for benchmarks and tests.

    with Links([100, 100, 100, 20]) as links:          # Mbit/s, each way, one per peer
        subprocess.Popen([*links.prefix(0), "python", "peer.py", links.address(0)])
        links.cut(1)                                    # a partition
        links.mend(1)

    sudo .venv/bin/python tests/benchmarks/links.py     # measures plain TCP over such links

Every peer has one namespace with loopback and `eth0`; a hub namespace holds the bridge. A token
bucket (tbf) sits at both ends of each peer's cable: one is its uplink, the other its downlink. No
namespace has a route out. The congestion control is set on the route, so that no setting of the
machine is touched. Segments on the cables are small: with the kernel's 64 KiB ones one flow of
three took 88 % of a link for seconds, with these they share it. Needs Linux, root, `ip`, `tc` and
`nsenter`: `unavailable()` says whether.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import TracebackType

NETWORK = "10.77.0"
HUB_HOST = 254
NAMESPACES = Path("/run/netns")
NAME = "swarmlinks"  # names are NAME-<pid>-<instance>-<peer>
SEGMENT_BYTES = 9000  # six packets; with fewer the acknowledgements cost 2 % of the way back
BURST_BYTES = 32 * 1024
LATENCY_MS = 100  # the longest queue; at 100 Mbit/s 1.25 MB, as in a common home router
CONGESTION = "cubic"  # shares a link more evenly than bbr here, and fills it as well: run `main`
WARM_UP_S = 0.5
_instances = count()


def unavailable() -> str | None:
    """Why links can not be made here, or None."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "tc", "nsenter") if shutil.which(tool) is None]
    if missing:
        return f"missing: {', '.join(missing)}"
    probe = f"{NAME}-{os.getpid()}-probe"
    try:
        _run("ip", "netns", "add", probe)
    except OSError as error:
        return f"can not make a network namespace: {error}"
    _remove(probe)
    return None


class Links:
    """Namespaces of `len(rates_mbit)` peers; a context manager. Raises OSError where it can not."""

    def __init__(self, rates_mbit: Sequence[float], congestion: str = CONGESTION) -> None:
        self.rates_mbit = list(rates_mbit)
        self._congestion = congestion
        stem = f"{NAME}-{os.getpid()}-{next(_instances)}"
        self._hub = f"{stem}-hub"
        self._names = [f"{stem}-{peer}" for peer in range(len(rates_mbit))]

    def __enter__(self) -> Links:
        _sweep()
        try:
            self._build()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._tear_down()

    def __len__(self) -> int:
        return len(self._names)

    def address(self, peer: int) -> str:
        """The IPv4 address of a peer's `eth0`."""
        return f"{NETWORK}.{peer + 1}"

    def prefix(self, peer: int) -> list[str]:
        """What to put before a command so that it runs in the peer's namespace."""
        return ["nsenter", f"--net={NAMESPACES / self._names[peer]}", "--"]

    def set_rate(self, peer: int, mbit: float) -> None:
        """Limit the peer's link, both ways, from now on."""
        self.rates_mbit[peer] = mbit
        for namespace, device in ((self._names[peer], "eth0"), (self._hub, f"peer{peer}")):
            limit = ("tbf", "rate", f"{int(mbit * 1e6)}bit", "burst", str(BURST_BYTES))
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", *limit,
                 "latency", f"{LATENCY_MS}ms")  # fmt: skip

    def cut(self, peer: int) -> None:
        """Take the peer off the network; connections see silence, not a reset."""
        _run("ip", "-n", self._hub, "link", "set", f"peer{peer}", "down")

    def mend(self, peer: int) -> None:
        """Undo `cut`."""
        _run("ip", "-n", self._hub, "link", "set", f"peer{peer}", "up")

    def _build(self) -> None:
        lines = [f"netns add {name}" for name in [self._hub, *self._names]]
        for peer, name in enumerate(self._names):
            lines.append(
                f"link add name peer{peer} netns {self._hub} type veth peer name eth0 netns {name}"
            )
        _batch([], lines)
        lines = ["link add name bridge0 type bridge", *self._up("bridge0", HUB_HOST)]
        for peer in range(len(self)):
            device = f"peer{peer}"
            lines += [f"link set {device} gso_max_size {SEGMENT_BYTES} master bridge0"]
            lines += [f"link set {device} up"]
        _batch(["-n", self._hub], lines)
        for peer, name in enumerate(self._names):
            _batch(["-n", name], self._up("eth0", peer + 1))
            self.set_rate(peer, self.rates_mbit[peer])

    def _up(self, device: str, host: int) -> list[str]:
        address = f"{NETWORK}.{host}"
        return [
            "link set lo up",
            f"address add {address}/24 dev {device} noprefixroute",
            f"link set {device} gso_max_size {SEGMENT_BYTES} up",
            f"route add {NETWORK}.0/24 dev {device} src {address} congctl {self._congestion}",
        ]

    def _tear_down(self) -> None:
        for name in [*self._names, self._hub]:
            _remove(name)


def probe(links: Links, flows: Sequence[tuple[int, int]], seconds: float = 2.0) -> list[float]:
    """Payload Mbit/s that each plain TCP flow (sender, receiver) reaches, all at once.

    Measured at the receiver after a warm-up of half a second. Raises OSError when a flow fails.
    """
    running: list[subprocess.Popen[str]] = []
    try:
        receivers = []
        for port, (_, receiver) in enumerate(flows, start=7000):
            command = [sys.executable, __file__, "receive", str(port), str(seconds)]
            process = _start([*links.prefix(receiver), *command])
            running.append(process)
            receivers.append(process)
            assert process.stdout is not None
            process.stdout.readline()
        for port, (sender, receiver) in enumerate(flows, start=7000):
            command = [sys.executable, __file__, "send", str(port), links.address(receiver)]
            running.append(_start([*links.prefix(sender), *command]))
        outputs = [process.communicate(timeout=seconds + 20)[0] for process in receivers]
        return [float(output) for output in outputs]
    except (ValueError, subprocess.TimeoutExpired) as error:
        raise OSError(f"probe failed: {error}") from error
    finally:
        for process in running:
            process.kill()
            process.wait()


def _receive(port: int, seconds: float) -> None:
    with socket.create_server(("", port)) as server:
        print("listening", flush=True)
        connection, _ = server.accept()
        buffer = bytearray(2**18)
        warm_until = time.monotonic() + WARM_UP_S
        while time.monotonic() < warm_until:
            connection.recv_into(buffer)
        received, begin = 0, time.monotonic()
        while (now := time.monotonic()) < begin + seconds:
            received += connection.recv_into(buffer)
        print(received * 8 / 1e6 / (now - begin))


def _send(port: int, address: str) -> None:
    with socket.create_connection((address, port)) as connection:
        while True:
            connection.sendall(bytes(2**18))


def _start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _run(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _batch(options: list[str], lines: list[str]) -> None:
    _run("ip", *options, "-batch", "-", text="\n".join(lines) + "\n")


def _remove(name: str) -> None:
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=30)


def _sweep() -> None:
    """Remove what killed processes left behind."""
    for path in NAMESPACES.glob(f"{NAME}-*"):
        if not Path("/proc", path.name.split("-")[1]).exists():
            _remove(path.name)


def main() -> None:
    """Measure one flow, three flows out of one peer, and all to all; one JSON line each."""
    if len(sys.argv) > 1:
        role, port, rest = sys.argv[1], int(sys.argv[2]), sys.argv[3]
        return _receive(port, float(rest)) if role == "receive" else _send(port, rest)
    if (reason := unavailable()) is not None:
        raise SystemExit(f"links: not available ({reason})")
    patterns = {
        "one flow": [(0, 1)],
        "three flows out": [(0, 1), (0, 2), (0, 3)],
        "three flows in": [(1, 0), (2, 0), (3, 0)],
        "all to all": [(a, b) for a in range(4) for b in range(4) if a != b],
        "from 100 into 20": [(0, 3)],
    }
    for congestion in ("cubic", "bbr"):
        for name, flows in patterns.items():
            rates = [100, 100, 100, 20] if name.endswith("20") else [100] * 4
            with Links(rates, congestion) as links:
                mbit = probe(links, flows)
            line = {"bench": "links", "congestion": congestion, "flows": name, "rates": rates}
            print(json.dumps(line | {"mbit_s": [round(x, 1) for x in mbit]}), flush=True)


if __name__ == "__main__":
    main()
