"""How a process of the chaos tests harms itself: at an exact step, by a signal, a cut or a brake.

    saboteur = Saboteur(tell, ledger_directory)
    transport = FaultyTransport(network, saboteur)     # a `Transport`
    saboteur.arm(Fault("after-serve Plan", KILL), round_index=7)

Steps, as they are named in a `Fault`:

    before-call NAME, after-call NAME      a message of that name goes out; was answered
    before-serve NAME, after-serve NAME    one came in; was handled and is about to be answered
    chunk first|mid|last                   a slice is about to be sent to a reducer
    mean first|mid|last                    a mean is about to be sent to a receiver
    download N                             chunk N of this process's downloads has come
    upload N                               this process is asked for a blob for the Nth time

What knows how the data plane moves its bytes is in faulty_plane.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from google.protobuf.message import Message

from swarm.collective.plan import reducer_jobs, reducers_of
from swarm.errors import Code, SwarmError
from swarm.network.p2p import PeerNetwork
from swarm.network.transport import Reply, Request
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import ReduceHello

KILL = "kill"  # SIGKILL of the process; its p2pd ends by itself some milliseconds later
STOP = "stop"  # SIGSTOP of the process alone: its sockets and its p2pd still answer for it
FREEZE = "freeze"  # SIGSTOP of the process and its p2pd, as when the machine hangs
FILL = "fill"  # no space is left on the disk that the ledger is on
FILLER = "filler"
NOT_KNOWN = 1 << 30
Attempt = tuple[int, int, str]  # round, attempt, leader


@dataclass(frozen=True)
class Fault:
    """`action` (KILL, STOP, FREEZE or FILL) when `step` is first reached in the round."""

    step: str
    action: str


def children_of(pid: int) -> list[int]:
    """Process ids of the children of a process (Linux)."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in path.read_text().split()]
        except OSError:
            continue
    return found


def fill_disk(directory: Path) -> None:
    """Write until there is no space left; meant for a small disk of its own."""
    with contextlib.suppress(OSError), open(directory / FILLER, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def harm(action: str, directory: Path) -> None:
    """Do it to this process, whose ledger is in `directory`."""
    if action == FILL:
        fill_disk(directory)
        return
    if action == FREEZE:
        for child in children_of(os.getpid()):
            os.kill(child, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL if action == KILL else signal.SIGSTOP)


def thaw(pid: int) -> None:
    """Let a stopped or frozen process go on."""
    for target in (*children_of(pid), pid):
        os.kill(target, signal.SIGCONT)


def attempt_of(message: pb.Plan | ReduceHello) -> Attempt:
    """The attempt that a plan or a lane is of."""
    return (int(message.round), int(message.ballot.attempt), message.ballot.leader)


class Saboteur:
    """Waits for the armed step; also keeps the switches for cut and slow links.

    `tell(step, means)` is called just before the harm; `means` is how many this peer has to send in
    the attempt, none when it reduces nothing.
    """

    def __init__(self, tell: Callable[[str, int], None], directory: Path) -> None:
        self.cut: frozenset[str] = frozenset()  # peers that nothing goes to or comes from
        self.chunk_delay_s = 0.0  # a brake on every chunk that is sent
        self.meek = False  # announce next to no bandwidth, so as to be given nothing to reduce
        self.trace: deque[tuple[float, str]] = deque(maxlen=400)  # messages, lately
        self._tell = tell
        self._directory = directory
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._round = -1
        self._counts: Counter[str] = Counter()
        self._totals: dict[str, int] = {}
        self._attempt: Attempt = (-1, 0, "")  # whose chunks are counted

    def arm(self, fault: Fault | None, round_index: int) -> None:
        """Harm this process at that step; `round_index` is the round of the messages meant."""
        with self._lock:
            self._fault, self._round = fault, round_index
            self._counts.clear()

    def reached(self, step: str, round_index: int | None = None) -> None:
        """A step is reached; may be called from any thread, and may not return."""
        with self._lock:
            fault = self._fault
            if fault is None or fault.step != step or round_index not in (None, self._round):
                return
            self._fault = None
        self._tell(step, self._totals.get("mean", 0))
        harm(fault.action, self._directory)

    def note_plan(self, plan: pb.Plan, me: str) -> None:
        """What this peer will send in an attempt follows from its plan."""
        attempt = attempt_of(plan)
        with self._lock:
            if not self._is_current(attempt) or self._totals:
                return
            jobs = {r: reducer_jobs(plan, r) for r in reducers_of(plan)}
            up = sum(me in j.contributors for r, theirs in jobs.items() if r != me for j in theirs)
            down = sum(len(set(j.receivers) - {me}) for j in jobs.get(me, []))
            self._totals = {"chunk": up, "mean": down}

    def _is_current(self, attempt: Attempt) -> bool:
        """False for an older attempt than the newest seen; of a new one nothing is counted yet.

        A leader's lanes may be at work before its plan goes out, and is seen here.
        """
        if attempt > self._attempt:
            self._attempt = attempt
            self._counts["chunk"] = self._counts["mean"] = 0
            self._totals = {}
        return attempt == self._attempt

    def chunk(self, kind: str, attempt: Attempt) -> None:
        """A chunk of that kind ("chunk" or "mean") of an attempt is about to be sent."""
        if self.chunk_delay_s:
            time.sleep(self.chunk_delay_s)
        with self._lock:
            if not self._is_current(attempt):
                return
            self._counts[kind] += 1
            number, total = self._counts[kind], self._totals.get(kind, NOT_KNOWN)
        for name, when in (("first", 1), ("mid", (total + 1) // 2), ("last", total)):
            if number >= when:
                self.reached(f"{kind} {name}", attempt[0])

    def counted(self, kind: str) -> None:
        """Something that is counted has happened: step "KIND N"."""
        with self._lock:
            self._counts[kind] += 1
            number = self._counts[kind]
        self.reached(f"{kind} {number}")

    def traced(self, text: str) -> None:
        """Remember a message, for the account of a failure."""
        self.trace.append((time.monotonic(), text))

    def check_cut(self, peer: str) -> None:
        """Raise `PEER_UNREACHABLE` when `peer` is on the other side."""
        if peer in self.cut:
            raise SwarmError(Code.PEER_UNREACHABLE, f"{peer}: the network is cut")


def _round_of(message: Message) -> int | None:
    """The round that a message is about, None when it does not say."""
    if isinstance(message, (pb.Accept, pb.Commit)):
        return int(pb.RoundRecord.FromString(message.record).round)
    if isinstance(message, (pb.Ready, pb.Plan, pb.Report)):
        return int(message.round)
    return None


def _brief(message: Message) -> str:
    """A message in a few words."""
    words = [type(message).__name__]
    if isinstance(message, pb.Ready):
        words += [f"round {message.round}", f"{len(message.contributions)} contributions"]
        words += ["joining"] if message.joining else []
    elif isinstance(message, pb.ReadyReply):
        words += [pb.ReadyReply.Status.Name(message.status), message.leader[-6:]]
    elif isinstance(message, pb.Plan):
        words += [f"round {message.round} attempt {message.ballot.attempt}"]
        words += [m.peer[-6:] for m in message.members]
    elif isinstance(message, pb.Promise):
        words += ["granted" if message.granted else message.reason]
    elif isinstance(message, pb.Report):
        words += [message.failure, *(f"{s.peer[-6:]} {s.reason}" for s in message.suspects)]
    elif isinstance(message, pb.AcceptReply):
        words += ["voted" if message.vote.voter else message.reason]
    elif isinstance(message, (pb.Commit, pb.Accept)):
        words += [f"round {_round_of(message)}"]
    return " ".join(words)


class FaultyTransport:
    """A `Transport` over the real network, with steps at every message."""

    def __init__(self, network: PeerNetwork, saboteur: Saboteur) -> None:
        self._network = network
        self._saboteur = saboteur

    @property
    def peer_id(self) -> str:
        return self._network.peer_id

    async def call(
        self, peer: str, request: Message, reply_type: type[Reply], timeout: timedelta
    ) -> Reply:
        saboteur, name = self._saboteur, type(request).__name__
        if isinstance(request, pb.Plan):
            saboteur.note_plan(request, self.peer_id)
        if isinstance(request, pb.Ready) and saboteur.meek:
            request.upload_bps = request.download_bps = 1.0
        saboteur.reached(f"before-call {name}", _round_of(request))
        if peer in saboteur.cut:
            await asyncio.sleep(timeout.total_seconds())  # packets vanish, nobody says so
        saboteur.check_cut(peer)
        try:
            reply = await self._network.call(peer, request, reply_type, timeout)
        except SwarmError as error:
            saboteur.traced(f"to {peer[-6:]}: {_brief(request)} -> {error.code.value}")
            raise
        saboteur.traced(f"to {peer[-6:]}: {_brief(request)} -> {_brief(reply)}")
        saboteur.reached(f"after-call {name}", _round_of(request))
        return reply

    def serve(
        self, request_type: type[Request], handler: Callable[[str, Request], Awaitable[Message]]
    ) -> None:
        name, saboteur = request_type.__name__, self._saboteur

        async def harmed(sender: str, request: Request) -> Message:
            if isinstance(request, pb.Plan):
                saboteur.note_plan(request, self.peer_id)
            saboteur.reached(f"before-serve {name}", _round_of(request))
            reply = await handler(sender, request)
            saboteur.traced(f"of {sender[-6:]}: {_brief(request)} -> {_brief(reply)}")
            saboteur.reached(f"after-serve {name}", _round_of(request))
            return reply

        self._network.serve(request_type, harmed)
