"""Latency, jitter, loss and bandwidth of a site's link to the internet.

Bandwidth is the kernel's token bucket. The rest is a small C program, since kernels for virtual
machines often come without netem: `impair` stands between the link and the bridge of the internet
and passes frames on, late. Two of them, as any path between two sites has, carried 1.2 Gbit/s on
the two cores of a small machine, 420 Mbit/s with a round trip of 50 ms, and added 0.1 ms to a round
trip without a delay, up to a few milliseconds to one with (`test_lab.py` asks for 200 Mbit/s).
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from tests.nat.netns import STATE, batch, checked, end, processes_in

SOURCE = Path(__file__).with_name("impair.c")
BURST_KIB = 64
QUEUE_MS = 100  # what a home router's buffer holds before it drops


@dataclass(frozen=True)
class Conditions:
    """Of one link, in each direction; what passes two links meets both.

    Attributes:
        delay_ms: one way.
        jitter_ms: uniform, plus or minus; frames keep their order.
        loss: of frames, 0 to 1.
        seed: of the losses and of the jitter.
    """

    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    seed: int = 1


def between(round_trip_ms: float, loss: float, seed: int = 1) -> Conditions:
    """Conditions for every link, so that any two sites have this round trip and loss."""
    return Conditions(delay_ms=round_trip_ms / 4, loss=1 - (1 - loss) ** 0.5, seed=seed)


def impair(internet: str, site: str, uplink: tuple[str, str], how: Conditions) -> None:
    """Put an `impair` process between a site's link and the bridge; it replaces an earlier one."""
    relieve(internet, site)
    # One frame must be one packet, or a loss takes up to 45 of them.
    batch([f"link set dev {uplink[1]} gso_max_segs 1"], uplink[0])
    numbers = (how.delay_ms * 1e3, how.jitter_ms * 1e3, how.loss * 1e6, how.seed)
    command = [str(program()), site, f"tap-{site}", *(str(round(number)) for number in numbers)]
    checked(["ip", "netns", "exec", internet, *command])
    lines = [f"link set dev {site} nomaster promisc on", f"link set dev tap-{site} master br0 up"]
    batch(lines, internet)


def relieve(internet: str, site: str) -> None:
    """Give a link back to the bridge, if it is impaired; frames on their way are lost."""
    pid = impaired(internet).get(site)
    if pid is None:
        return
    end([pid])
    batch([f"link set dev {site} master br0 promisc off"], internet)


def impaired(internet: str) -> dict[str, int]:
    """The sites that have conditions, and the process ids of `impair`."""
    found = {}
    for pid in processes_in([internet]):
        with contextlib.suppress(OSError, IndexError):
            command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            if command[2].startswith("tap-"):
                found[command[1]] = pid
    return found


def limit_rate(namespace: str, interface: str, mbit: float) -> None:
    """Limit what an interface sends, in Mbit/s; 0 lifts the limit."""
    if mbit:
        bucket = f"rate {mbit}mbit burst {BURST_KIB}kb latency {QUEUE_MS}ms"
        command = f"tc -n {namespace} qdisc replace dev {interface} root tbf {bucket}"
        checked(command.split())
    elif "tbf" in checked(["tc", "-n", namespace, "qdisc", "show", "dev", interface]):
        checked(["tc", "-n", namespace, "qdisc", "del", "dev", interface, "root"])


def program() -> Path:
    """The path of `impair`, which is compiled when its source has changed."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    target = STATE / f"impair-{blake2b(SOURCE.read_bytes(), digest_size=8).hexdigest()}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=STATE) as directory:
            made = Path(directory) / "impair"
            checked(["cc", "-O2", "-Wall", "-o", str(made), str(SOURCE)])
            made.replace(target)
    return target
