"""From what was measured to lines (pure): each check says what to do when it is not well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from node.doctor.lines import Line, failure, ok, warning
from node.status_view import human_bytes
from node.text import plural
from swarm.errors import Code
from swarm.network.clocks import DHT_LIMIT_S
from swarm.network.reachability import HIDDEN, OPEN, Nat

CLOCK_WARNING_S = 1.0
WANTED_RELAYS = 2
HIVEMIND = "1.1.12"  # whose p2pd and DHT are built upon, workarounds included
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
SYNC_CLOCK = "set it by NTP: timedatectl set-ntp true"
ASK_PEERS = "name a peer with --peer, or start the node and ask again"


@dataclass(frozen=True)
class NetworkFacts:
    """What a running node, or a short visit to the run, has shown; rates in bits per second."""

    asked: int = 0
    answered: int = 0
    problem: str = ""
    problem_code: Code | None = None
    clock_offset_s: float = 0.0
    clock_peers: int = 0
    nat: str = Nat.UNKNOWN.value
    nat_reason: str = ""
    relays: Sequence[str] = ()
    up_bps: float = 0.0
    down_bps: float = 0.0
    company: str = ""
    company_reason: str = ""
    peer_versions: Mapping[str, str] = field(default_factory=dict)
    running: bool = False
    trains: bool = True

    def how_to_know(self) -> str:
        """What to do about something that could not be measured."""
        if self.running:
            return "it is measured once other peers are there; ask again then"
        return "no peer could tell; try others with --peer" if self.answered else ASK_PEERS


@dataclass(frozen=True)
class Needs:
    """What the run asks of a machine, in bytes; estimates."""

    parameters: int = 0
    disk: int = 1 << 30
    memory: int = 1 << 30
    sent_per_round: int = 0
    attempt_s: float = 0.0


def needs_of(parameters: int, update_bytes: int, attempt_s: float) -> Needs:
    """Of a run whose model has so many parameters, all of them held; an update is encoded.

    Memory: state, shadow and update of the daemon (6 copies of 4 bytes), and weights, gradients
    and Adam's two moments of the worker (4), beside a gigabyte for torch. Disk: parameters and
    momentum of three commits, and a gigabyte for the tokens. A round sends and receives about the
    model's size once each way as updates, and once as means.
    """
    return Needs(
        parameters=parameters,
        disk=(1 << 30) + 3 * 2 * 4 * parameters,
        memory=(1 << 30) + 10 * 4 * parameters,
        sent_per_round=2 * update_bytes,
        attempt_s=attempt_s,
    )


def check_peers(facts: NetworkFacts) -> Line:
    """Does anybody answer, and is this node let in?"""
    name = "peers"
    if facts.running:
        if facts.company in ("isolated", "parted"):
            return failure(name, facts.company_reason, "check this machine's network and firewall")
        return ok(name, facts.company_reason)
    if not facts.asked:
        return warning(name, "none was asked", ASK_PEERS)
    if facts.problem_code is Code.NOT_ADMITTED:
        return failure(name, facts.problem, "ask whoever founded the run for a ticket: --join")
    if facts.problem_code in (Code.RUN_MISMATCH, Code.MESSAGE_VERSION):
        return failure(name, facts.problem, "take the RUN.toml and the version of the others")
    if not facts.answered:
        return failure(
            name,
            f"none of {plural(facts.asked, 'peer')} answers: {facts.problem}",
            "check the address and this machine's firewall; try another peer",
        )
    return ok(name, f"{facts.answered} of {facts.asked} answer")


def check_clock(facts: NetworkFacts) -> Line:
    """Within 3 s of the peers', or their DHT refuses this node."""
    if facts.problem_code is Code.MESSAGE_EXPIRED:
        return failure("clock", f"more than a minute off: {facts.problem}", SYNC_CLOCK)
    if not facts.clock_peers:
        return warning("clock", "compared with no peer", facts.how_to_know())
    off_s = facts.clock_offset_s
    text = f"{abs(off_s):.1f} s {'behind' if off_s > 0 else 'ahead of'} the peers'"
    text += f" ({plural(facts.clock_peers, 'peer')})"
    if abs(off_s) >= DHT_LIMIT_S:
        return failure("clock", text, SYNC_CLOCK)
    if abs(off_s) >= CLOCK_WARNING_S:
        return warning("clock", text, SYNC_CLOCK)
    return ok("clock", f"{abs(off_s):.1f} s from the peers' ({plural(facts.clock_peers, 'peer')})")


def check_port(host: str, port: int, problem: str, *, running: bool) -> Line:
    """Can the node listen where it is told to?"""
    if running:
        return ok("port", f"the node listens on TCP port {port}")
    if problem:
        return failure("port", problem, "stop what has it, or choose another with --listen")
    return ok("port", f"{host} port {port or 'any'} is free")


def check_nat(facts: NetworkFacts) -> Line:
    """How do others reach this node?"""
    name, text = "reachable", f"{facts.nat}: {facts.nat_reason}"
    kind = Nat(facts.nat)
    if kind in OPEN or kind is Nat.ENDPOINT_INDEPENDENT:
        return ok(name, text)
    if kind is Nat.UNKNOWN:
        return warning(name, "not measured", facts.how_to_know())
    advice = "forward a TCP port to this machine and name it with --listen and --announce"
    if kind is Nat.LOCAL:
        advice = "fine in one LAN; peers elsewhere need a public node: node relay"
    elif kind is Nat.FIREWALLED:
        advice = "open the port of --listen in this machine's firewall"
    return warning(name, text, f"it works through relays; to be faster, {advice}")


def check_relay(facts: NetworkFacts) -> Line:
    """Who can not be reached needs relays, two of them."""
    kind, held = Nat(facts.nat), len(facts.relays)
    if kind in OPEN:
        return ok("relay", "needs none, and can be one for others")
    if kind is Nat.UNKNOWN:
        return warning("relay", "not known whether one is needed", facts.how_to_know())
    if kind not in HIDDEN:
        return ok("relay", "none needed in one LAN")
    if held >= WANTED_RELAYS:
        return ok("relay", f"reachable through {plural(held, 'relay')}")
    advice = "the run needs public nodes: node relay, docs/network.md"
    if held:
        return warning("relay", "reachable through one relay only", advice)
    return failure("relay", "no relay makes this node reachable", advice)


def check_bandwidth(name: str, bps: float, facts: NetworkFacts, needs: Needs) -> Line:
    """Is a round's data through in the time of an attempt? `name`: upload or download."""
    if not bps:
        return warning(name, "not measured", facts.how_to_know())
    text = f"{bps / 1e6:.1f} Mbit/s"
    if not needs.sent_per_round:
        return ok(name, text)
    takes_s = 8 * needs.sent_per_round / bps
    text += f", about {takes_s:.0f} s for the {human_bytes(needs.sent_per_round)} of a round"
    if takes_s > needs.attempt_s:
        return failure(
            name, text, f"an attempt ends after {needs.attempt_s:.0f} s: use a faster connection"
        )
    if takes_s > needs.attempt_s / 2:
        return warning(name, text, "little time is left for anything else; close other programs")
    return ok(name, text)


def check_disk(directory: str, free: int, problem: str, needs: Needs) -> Line:
    """Space and the right to write."""
    text = f"{human_bytes(free)} free in {directory}, about {human_bytes(needs.disk)} needed"
    if problem:
        return failure("disk", problem, "choose another directory with --dir")
    if free < needs.disk:
        return failure("disk", text, "free some space, or choose another place with --dir")
    if free < 2 * needs.disk:
        return warning("disk", text, "free some space before it is needed")
    return ok("disk", text)


def check_memory(available: int, needs: Needs) -> Line:
    """Main memory that is free now."""
    text = f"{human_bytes(available)} available, about {human_bytes(needs.memory)} needed"
    if available < needs.memory / 2:
        return failure("memory", text, "close other programs, or take part in a smaller run")
    if available < needs.memory:
        return warning("memory", text, "close other programs")
    return ok("memory", text)


def check_device(wanted: str, found: Sequence[str], cores: int, threads: int) -> Line:
    """Is the device there that the worker is to use?"""
    there = ", ".join(found)
    kind = wanted.partition(":")[0]
    if wanted != "auto" and wanted not in found and kind not in found:
        return failure("device", f"{wanted} is not there", f"available: {there}")
    if threads > cores:
        return warning(
            "device", f"{threads} threads on {plural(cores, 'core')}", f"use --threads {cores}"
        )
    if list(found) == ["cpu"]:
        return ok("device", f"cpu, {plural(cores, 'core')}")
    return ok("device", there)


def check_kernels(compiled: bool) -> Line:
    """Was there a C compiler when this was installed?"""
    if not compiled:
        what = "not compiled: averaging takes several times as much computing"
        return warning("kernels", what, "install a C compiler, then install expertswarm again")
    return ok("kernels", "compiled")


def check_versions(
    own: str, python: tuple[int, int], hivemind: str, facts: NetworkFacts
) -> list[Line]:
    """Of Python, of what is built upon, and of the peers."""
    shown = f"expertswarm {own}, Python {python[0]}.{python[1]}, hivemind {hivemind or 'missing'}"
    if not OLDEST_PYTHON <= python <= NEWEST_PYTHON:
        return [failure("versions", shown, "use Python 3.10 to 3.13")]
    if hivemind != HIVEMIND:
        return [failure("versions", shown, f"pip install hivemind=={HIVEMIND}")]
    others = sorted({version for version in facts.peer_versions.values() if version != own})
    if others:
        text = f"{shown}; peers run {', '.join(others)}"
        return [warning("versions", text, "run the version of the others")]
    return [ok("versions", shown)]
