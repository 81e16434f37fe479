"""Which peer holds and trains which experts. Pure.

Holders stay with their experts (moving one costs its Adam state); free places go to the experts
with the fewest live holders, ties to an expert that the peer held before, then to the lower index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def assign_experts(
    roster: Sequence[str],
    previous: Mapping[str, Sequence[int]],
    num_experts: int,
    experts_per_peer: int,
) -> dict[str, list[int]]:
    """Experts of each member of `roster`; every member gets `experts_per_peer` different ones.

    `previous` may name peers that are gone: their experts become free, and a peer that returns
    gets its own back if they still need holders. The result does not depend on the order of
    `roster` or `previous`.
    """
    places = min(experts_per_peer, num_experts)
    held: dict[str, list[int]] = {
        peer: sorted(e for e in set(previous.get(peer, ())) if 0 <= e < num_experts)[:places]
        for peer in sorted(roster)
    }
    holders = [sum(e in experts for experts in held.values()) for e in range(num_experts)]
    for peer, experts in held.items():
        while len(experts) < places:
            free = [e for e in range(num_experts) if e not in experts]
            choice = min(free, key=lambda e: (holders[e], e))
            experts.append(choice)
            holders[choice] += 1
        held[peer] = sorted(experts)
    return held
