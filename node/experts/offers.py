"""What peers say about experts in a base's network: cards and notices as one small DHT value.

    value = pack_offers([(signed, notice), ...])
    found = merge_offers({peer: value, ...})         # everything checked; strangers wrote it
    found.listed["ab12..."].peers                    # who serves it

Pure functions over bytes; each card and notice carries its owner's signature, so it does not matter
which peer it comes from.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from swarm.errors import Code, SwarmError
from swarm.experts.cards import SignedCard
from swarm.experts.safe_files import parse_json
from swarm.experts.withdrawals import Notice, Notices

OFFERS_NAME = "experts"  # of the value in the DHT
MAX_OFFERS = 256  # of one peer


@dataclass
class Listed:
    """An expert that somebody offers, or that was withdrawn."""

    card: SignedCard
    peers: list[str] = field(default_factory=list)


@dataclass
class FoundOffers:
    """`listed` by id; `refused` counts what was not let in, by error code."""

    listed: dict[str, Listed] = field(default_factory=dict)
    notices: Notices = field(default_factory=Notices)
    refused: Counter[str] = field(default_factory=Counter)

    def withdrawn(self, expert: str) -> bool:
        """Whether the newest notice takes the expert back."""
        notice = self.notices.of(expert)
        return notice is not None and notice.withdrawn

    def pick(self, name: str) -> Listed:
        """The one expert of a domain, or whose id begins with `name` (8 letters or more).

        One that was withdrawn is picked only when no other fits. Raises `USAGE` when none or
        several fit.
        """
        fitting = [
            item
            for id_, item in self.listed.items()
            if item.card.card.domain == name or (len(name) >= 8 and id_.startswith(name))
        ]
        offered = [item for item in fitting if not self.withdrawn(item.card.id)]
        fitting = offered or fitting
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            known = ", ".join(sorted({i.card.card.domain for i in self.listed.values()})) or "none"
            raise SwarmError(Code.USAGE, f"nobody offers an expert {name!r}", f"offered: {known}")
        ids = ", ".join(item.card.id[:16] for item in fitting)
        raise SwarmError(Code.USAGE, f"{len(fitting)} experts are called {name!r}", f"name: {ids}")


def pack_offers(offers: Iterable[tuple[SignedCard, Notice | None]]) -> bytes:
    """The value that a peer puts into the DHT."""
    content = [
        {
            "card": signed.to_json().decode(),
            "notice": notice.to_json().decode() if notice is not None else "",
        }
        for signed, notice in offers
    ]
    return json.dumps({"experts": content}).encode()


def merge_offers(values: Mapping[str, bytes]) -> FoundOffers:
    """What all peers say, without what is malformed, unsigned or out of date."""
    found = FoundOffers()
    for peer in sorted(values):
        try:
            entries = parse_json(values[peer], Code.MESSAGE_MALFORMED, "offers")["experts"]
            if not isinstance(entries, list) or len(entries) > MAX_OFFERS:
                raise SwarmError(Code.OVER_LIMIT, "too many offers")
        except KeyError:
            found.refused[Code.MESSAGE_MALFORMED.value] += 1
            continue
        except SwarmError as error:
            found.refused[error.code.value] += 1
            continue
        for entry in entries:
            _take(found, peer, entry)
    return found


def _take(found: FoundOffers, peer: str, entry: object) -> None:
    try:
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(name), str) for name in ("card", "notice")
        ):
            raise SwarmError(Code.MESSAGE_MALFORMED, "not an offer")
        signed = SignedCard.parse(entry["card"].encode())
        found.listed.setdefault(signed.id, Listed(signed)).peers.append(peer)
        if entry["notice"]:
            notice = Notice.parse(entry["notice"].encode())
            if notice.expert != signed.id:
                raise SwarmError(Code.NOTICE_INVALID, "a notice on another expert")
            found.notices.accept(notice, signed.card.owner)
    except SwarmError as error:
        found.refused[error.code.value] += 1
