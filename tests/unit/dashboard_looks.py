"""A made-up swarm of four as its nodes tell it, for tests of what shows it."""

from __future__ import annotations

from swarm.wire.node_pb2 import (
    ContributionStatus,
    ExpertStatus,
    LogLine,
    Look,
    PeerStatus,
    RoundSummary,
    StatusReply,
)

NOW_MS = 1_700_000_000_000
NAMES = ("anna", "bert", "cleo", "a-very-long-display-name-of-a-peer")
IDS = tuple(f"12D3KooW{name[:4].upper()}{'x' * 36}{n:04}" for n, name in enumerate(NAMES))
DOMAINS = ("law", "maths", "python", "english")


def rounds(count: int) -> list[RoundSummary]:
    """Commits 1 to `count`, ten seconds apart; the loss falls, and bert misses every fifth."""
    made = []
    for number in range(1, count + 1):
        late = number % 5 == 0
        made.append(
            RoundSummary(
                round=number, outcome="partial" if late else "full", seconds=1.5 + number % 3,
                contributors=[p for p in IDS if not (late and p == IDS[1])], electorate=4,
                missing=[f"{IDS[1]}: not ready in time"] if late else [],
                commit_id=f"{number:064x}", loss=2 + 4 / number, attempts=1 + late,
                committed_tokens=60_000 * number + 900 * number * number,
                committed_at_ms=NOW_MS - 10_000 * (count - number) - 4_000,
                bytes_sent=2_500_000 * number, bytes_received=2_400_000 * number,
            )
        )  # fmt: skip
    return made


def peers(dead: bool) -> list[PeerStatus]:
    """The four; with `dead`, cleo does not answer."""
    rows = []
    for number, (peer, name) in enumerate(zip(IDS, NAMES, strict=True)):
        alive = not (dead and number == 2)
        rows.append(
            PeerStatus(
                peer_id=peer, display_name=name, domain=DOMAINS[number],
                path=("self", "lan", "relay", "punched")[number],
                held_experts=[2 * number, 2 * number + 1],
                tokens_per_second=1000 + 100 * number if alive else 0, in_roster=True,
                alive=alive, round=25, bytes_sent=700_000 * number, bytes_received=600_000 * number,
                steps=30, device="cpu", state="AVERAGING" if number == 3 else "TRAINING",
                nat="public" if number == 1 else "port restricted", version="0.1.0",
                last_counted_round=24 if number == 1 else 25,
                absent={1: "not ready in time", 2: "" if alive else "does not answer"}.get(
                    number, ""
                ),
            )
        )  # fmt: skip
    return rows


def status(dead: bool = False) -> StatusReply:
    """What anna's node says."""
    experts = [
        ExpertStatus(
            expert=e, holders=[IDS[e // 2]], held_since=3, trained_tokens=5_000 + 13 * e,
            served=[f"{DOMAINS[e // 2]} 90%", "other things 10%"], version=25, load=0.5 + e / 8,
        )
        for e in range(7)
    ]  # fmt: skip
    given = [
        ContributionStatus(
            peer_id=IDS[n], display_name=NAMES[n], tokens=800_000 - 150_000 * n, rounds=25 - n,
            served_bytes=62_500_000 - 9_000_000 * n, relayed_bytes=3_000 * (n == 1),
            last_round=24 if n == 1 else 25,
        )
        for n in range(4)
    ]  # fmt: skip
    return StatusReply(
        run_id="ab" * 32, run_name="quickstart", peer_id=IDS[0], display_name="anna", domain="law",
        state="TRAINING", reason="step 12 of 30", since_ms=NOW_MS - 4_000, round=25,
        last_outcome="PARTIAL", tokens_per_second=1000, loss=2.2, step=12, steps_per_round=30,
        held_experts=[0, 1], peers=peers(dead), bytes_sent=62_500_000, bytes_received=60_000_000,
        tokens_trained=800_000, committed_tokens=2_062_500, pid=4242, worker_pid=4243,
        refused={"MESSAGE_UNSIGNED": 2}, addresses=[f"/ip4/192.0.2.7/tcp/4001/p2p/{IDS[0]}"],
        version="0.1.0", last_counted_round=25, device="cpu", company="together",
        company_reason="3 of 3 other members answer", role="peer", clock_offset_s=0.4,
        clock_peers=3, nat="public", nat_reason="reached from outside", upload_bps=40e6,
        observed=["192.0.2.7:4001"], next_event="round 26 is averaged", next_event_s=37.0,
        contributions=given,
        experts=[*experts, ExpertStatus(expert=7, orphaned_rounds=3, version=11)],
    )  # fmt: skip


def log(count: int) -> list[LogLine]:
    """Lines of anna's node, two seconds apart."""
    texts = ("TRAINING: step 1 of 30", f"round 25: suspect: {IDS[1]} is late", "peer with \x1b[31m")
    return [
        LogLine(number=n, at_ms=NOW_MS - 2_000 * (count - n), text=texts[n % len(texts)])
        for n in range(1, count + 1)
    ]


def look(dead: bool = False) -> Look:
    """The first look at a node that has been there for a while."""
    return Look(at_ms=NOW_MS, status=status(dead), rounds=rounds(25), log=log(30))
