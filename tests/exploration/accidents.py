"""What goes wrong in a world, apart from single messages: crashes, freezes, cuts, disks, leavers.

Up to four accidents are drawn for each run. Some come at a time; some, the traps, come at a step
of the protocol, as "the third time that anybody answers a Plan", before or after it. So a leader
dies between the votes and the commit far more often than by chance.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

from swarm.collective.consensus import quorum
from swarm.collective.protocol import effects as fx

if TYPE_CHECKING:
    from world import Peer, World

STEPS = (
    "PersistWord",
    "PersistWord",
    "PersistCommit",
    "Adopt",
    "StartAttempt",
    "Call Plan",
    "Call Accept",
    "Call Accept",
    "Call Commit",
    "Call Commit",
    "Call Report",
    "Call Resignation",
    "Answer Promise",
    "Answer Promise",
    "Answer AcceptReply",
    "Answer AcceptReply",
    "Answer CommitReply",
)
MOST = 4
DURATIONS_S = (0.5, 0.5, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0)


def step_of(effect: Any) -> str:
    """The step of the protocol that an effect is."""
    name = type(effect).__name__
    if isinstance(effect, fx.Call | fx.Answer):
        return f"{name} {type(effect.message).__name__}"
    return name


class Accidents:
    """Those of one world."""

    def __init__(self, world: World, names: tuple[str, ...]) -> None:
        self._world = world
        self._names = names
        self._steps: Counter[str] = Counter()
        self._traps: dict[str, list[tuple[int, tuple[Any, ...]]]] = {}
        self.end_s = world.ask(("end",), 1.0, lambda r: r.choice(DURATIONS_S))
        number = world.ask(("accidents",), MOST, lambda r: r.randrange(MOST + 1))
        for _ in range(number):
            drawn = world.ask(("accident",), None, self._draw)
            if drawn is not None:
                self._prepare(drawn)

    # ---- drawing --------------------------------------------------------------------------

    def _draw(self, rng: random.Random) -> tuple[Any, ...]:
        at = round(rng.random() * self.end_s * 0.8, 3)
        who = rng.choice(self._names)
        lasts = round(rng.choice((0.1, 0.5, 2.0, 5.0)) * rng.random(), 3)
        disk = rng.choice(("kept", "kept", "kept", "kept", "damaged", "new"))
        luck = rng.random()
        if luck < 0.5:
            what = rng.choice(("crash", "crash", "crash", "crash", "freeze", "full"))
            step = rng.choice(STEPS[:3]) if what == "full" else rng.choice(STEPS)
            when = "full" if what == "full" else rng.choice(("before", "after"))
            return ("trap", step, rng.choice((1, 1, 2, 2, 3, 4, 6)), what, when, lasts, disk)
        if luck < 0.6:
            return ("crash", at, who, lasts, disk)
        if luck < 0.7:
            return ("freeze", at, who, lasts)
        if luck < 0.82:
            side = tuple(n for n in self._names if rng.random() < 0.5)
            return ("cut", at, side, lasts, rng.choice(("both", "both", "in", "out")))
        if luck < 0.88:
            return ("leave", at, who, lasts, rng.random() < 0.5)
        if luck < 0.9:
            return ("rest", at, who, lasts)
        if luck < 0.92:
            return ("change", at, who, rng.random() < 0.5)
        if luck < 0.95:
            most = tuple(rng.sample(self._names, len(self._names) // 2 + 1))
            return ("exodus", at, most, lasts, rng.choice(("are cut off", "leave too")))
        return ("join", at)

    def training_time(self, rng: random.Random) -> float:
        """Most train for about as long as the others; some take very long."""
        return round(rng.choice((0.05, 0.1, 0.3, 1.0)) * (0.5 + rng.random()), 3)

    # ---- at a time ------------------------------------------------------------------------

    def _prepare(self, drawn: tuple[Any, ...]) -> None:
        kind, *rest = drawn
        if kind == "trap":
            step, nth, *what = rest
            self._traps.setdefault(step, []).append((nth, tuple(what)))
        else:
            self._world.after(rest[0], self._happen, kind, *rest[1:])

    def _happen(self, kind: str, *how: Any) -> None:
        """An accident whose time has come; too late once all is healed."""
        if not self._world.healed:
            getattr(self, f"_{kind}")(*how)

    def _peer(self, who: str) -> Peer | None:
        """A peer that lives; a script that was cut down may name one that is not there."""
        peer = self._world.peers.get(who)
        return peer if peer is not None and peer.alive else None

    def _crash(self, who: str, lasts: float, disk: str) -> None:
        peer = self._peer(who)
        if peer is not None:
            self._world.lives.crash(peer)
            self._bury(peer, lasts, disk)

    def _bury(self, peer: Peer, lasts: float, disk: str) -> None:
        if disk == "damaged":
            peer.disk_damaged = True
            self._world.seen["damaged disk"] += 1
            if self._world.telling:
                self._world.tell(f"the promises on {peer.id}'s disk are DAMAGED")
        if disk == "new":
            peer.gone = peer.lost = True
            newcomer = self._world.lives.newcomer()
            if newcomer is not None:
                self._world.after(lasts, self._world.lives.boot, newcomer)
        else:
            self._world.after(lasts, self._restart, peer)

    def _restart(self, peer: Peer) -> None:
        if not peer.gone:
            self._world.lives.boot(peer)

    def _freeze(self, who: str, lasts: float) -> None:
        peer = self._peer(who)
        if peer is not None:
            self._world.lives.freeze(peer)
            self._world.after(lasts, self._world.lives.thaw, peer)

    def _cut(self, side: tuple[str, ...], lasts: float, ways: str) -> None:
        world = self._world
        others = [p for p in world.peers if p not in side]
        links = [(a, b) for a in side for b in others] if ways != "in" else []
        links += [(b, a) for a in side for b in others] if ways != "out" else []
        for link in links:
            world.network.cut[link] += 1
        if world.telling:
            world.tell(f"CUT ({ways}) between {', '.join(side)} and {', '.join(others)}")
        world.after(lasts, self._mend, links)

    def _mend(self, links: list[tuple[str, str]]) -> None:
        for link in links:
            self._world.network.cut[link] = max(0, self._world.network.cut[link] - 1)
        if self._world.telling:
            self._world.tell("the cut is mended")

    def _leave(self, who: str, lasts: float, returns: bool) -> None:
        peer = self._peer(who)
        if peer is not None:
            self._world.lives.leave(peer)
            if returns:
                self._world.after(lasts, self._return, peer)

    def _return(self, peer: Peer) -> None:
        if not (peer.lost or self._world.healed):
            self._world.lives.boot(peer)

    def _rest(self, who: str, lasts: float) -> None:
        """Who leaves for a moment only may be back before it has left."""
        peer = self._peer(who)
        if peer is not None:
            self._world.lives.rest(peer)
            self._world.after(lasts, self._stay, peer, peer.life)

    def _stay(self, peer: Peer, life: int) -> None:
        if not self._world.lives.later(peer, life, self._stay):
            self._world.lives.stay(peer)

    def _change(self, who: str, paused: bool) -> None:
        peer = self._peer(who)
        if peer is not None:
            self._world.steering.tell(peer, paused)

    def _exodus(self, leavers: tuple[str, ...], lasts: float, others: str) -> None:
        """A majority leaves at once, and is back a moment later when something befalls the others.

        Who is back in the same round has no vote, and must not let the others give up theirs.
        """
        for who in leavers:
            self._leave(who, lasts, True)
        if others == "are cut off":
            self._world.after(lasts / 2, self._happen, "cut", leavers, 2 * lasts, "both")
            return
        for who in self._names:
            if who not in leavers:
                self._world.after(lasts + 0.1, self._happen, "leave", who, lasts, True)

    def _join(self) -> None:
        newcomer = self._world.lives.newcomer()
        if newcomer is not None:
            self._world.lives.boot(newcomer)

    # ---- at a step ------------------------------------------------------------------------

    def trap(self, peer: Peer, effect: Any) -> str:
        """Whether a trap snaps at this effect: "before" or "after" it, "full" disk, or ""."""
        if not self._traps or self._world.healed:
            return ""
        step = step_of(effect)
        waiting = self._traps.get(step)
        if waiting is None:
            return ""
        self._steps[step] += 1
        for nth, (what, when, lasts, disk) in waiting:
            if nth != self._steps[step]:
                continue
            self._world.seen[f"{what} at {step}"] += 1
            if what == "freeze":
                self._freeze(peer.id, lasts)
                return ""
            self._world.after(0.0, self._bury, peer, lasts, "kept" if what == "full" else disk)
            return str(when)
        return ""

    # ---- the end --------------------------------------------------------------------------

    def heal(self) -> None:
        """Mend all links, thaw all, and start those who are down.

        Who left stays away, and sometimes others too, as long as the rest can decide without them.
        """
        world = self._world
        if world.telling:
            world.tell("ALL IS HEALED")
        world.network.cut.clear()
        for peer in list(world.peers.values()):
            world.lives.thaw(peer)
            world.lives.stay(peer)
            if peer.leaving:
                world.lives.crash(peer, "as its user wants it to stay")
        down = [p for p in world.peers.values() if p.life and not p.alive]
        returning = world.ask(("return",), True, lambda r: r.random() < 0.6)
        for peer in down:
            away = peer.gone or not returning
            peer.gone = peer.lost or (away and self._dispensable(peer))
            if not peer.gone:
                world.lives.boot(peer)

    def _dispensable(self, peer: Peer) -> bool:
        """True when every history that lives can go on without this peer."""
        world = self._world
        records = world.oracle.newest_records()
        for record in records:
            roster = set(record.roster)
            able = [
                p.id
                for p in world.peers.values()
                if p.id in roster and p.id != peer.id and not p.gone and not abstains(p)
            ]
            if len(able) < quorum(len(roster)):
                return False
        return bool(records)


def abstains(peer: Peer) -> bool:
    """True when a peer gives no word in the round that is open for it."""
    return peer.alive and peer.memory.abstains
