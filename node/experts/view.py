"""Cards as text for people: pure functions."""

from __future__ import annotations

import time
from collections.abc import Mapping

from node.experts.offers import FoundOffers
from node.text import printable
from swarm.experts.cards import SignedCard
from swarm.experts.withdrawals import Notice

WIDTH = 14


def card_lines(signed: SignedCard, notice: Notice | None) -> list[str]:
    """The card, one fact a line; text of strangers is made safe for the terminal."""
    card = signed.card
    rank = "whole matrices" if not card.ranks else "low, at most " + str(max(card.ranks))
    facts = {
        "expert": signed.id,
        "domain": card.domain,
        "description": card.description or "none",
        "licence": card.licence,
        "owner": card.owner,
        "base": card.base,
        "issued": _date(card.issued_at_ms),
        "size": f"{card.weights_bytes} bytes, {rank}",
        "trained": _numbers(card.training),
        "text": _numbers(card.data),
        "held out": _numbers(card.evaluation),
        "privacy": _numbers(card.privacy)
        if card.privacy
        else "no guarantee: parts of the text may be drawn out of the weights",
        "offered": _offered(notice),
    }
    return [f"{name:{WIDTH}}{_line(value)}" for name, value in facts.items()]


def offer_lines(found: FoundOffers) -> list[str]:
    """What is offered in a network, one expert a line."""
    lines = [
        f"{id_[:16]}  {printable(item.card.card.domain):20}  {len(item.peers)} serving  "
        + ("WITHDRAWN" if found.withdrawn(id_) else _line(item.card.card.licence))
        for id_, item in sorted(found.listed.items(), key=lambda pair: pair[1].card.card.domain)
    ]
    if found.refused:
        refused = ", ".join(f"{code} {count}" for code, count in sorted(found.refused.items()))
        lines.append(f"refused: {refused}")
    return lines or ["nothing is offered"]


def _line(text: str) -> str:
    """On one line, so that no text of a card looks like another fact of it."""
    return " ".join(printable(text).split())


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items()) or "not stated"


def _offered(notice: Notice | None) -> str:
    if notice is None or not notice.withdrawn:
        return "yes"
    because = f": {notice.reason}" if notice.reason else ""
    return f"no, withdrawn {_date(notice.at_ms)}{because}"


def _date(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ms / 1000))
