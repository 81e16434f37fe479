"""Expert cards: who made an expert, beside which base, from what, and on which terms.

    signed = sign_card(identity, card)
    text = signed.to_json()                 # card.json
    signed = SignedCard.parse(text)         # raises CARD_INVALID or SIGNATURE_INVALID
    signed.id                               # names this expert, this version of it, everywhere

What is signed is the canonical JSON of the card (sorted keys, no spaces) behind a prefix of its
own, so the signature holds for nothing else. Plain standard library: daemons read cards too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from swarm.errors import Code, SwarmError
from swarm.experts.safe_files import parse_json
from swarm.identity import Identity, verify

FORMAT = 1
MAX_CARD_BYTES = 64 * 1024
MAX_TEXT = 2000
MAX_DOMAIN = 64
MAX_TIME_MS = 253_402_300_800_000  # the year 10000; calendars of the standard library end there
_PREFIX = b"expertswarm expert card\n"
_HASH_LENGTH = 64


@dataclass(frozen=True, kw_only=True)
class ExpertCard:
    """What an owner states about an expert. Only `weights` and `base` are checked by machines.

    The hash of the text is left out on purpose: with it anybody could confirm a guess of the text.
    """

    domain: str
    owner: str  # peer id, of the key that signs
    base: str  # id of the base, hexadecimal
    weights: str  # BLAKE3 of expert.safetensors, hexadecimal
    weights_bytes: int
    issued_at_ms: int  # Unix time
    description: str = ""
    licence: str = "unspecified"
    origins: tuple[int, ...] = ()  # by layer, the expert of the base that it began as
    ranks: tuple[int, ...] = ()  # by layer, the largest rank of a matrix; none when stored whole
    training: Mapping[str, float] = field(default_factory=dict)  # tokens, steps, learning_rate, ...
    data: Mapping[str, float] = field(default_factory=dict)  # documents, bytes, tokens
    evaluation: Mapping[str, float] = field(default_factory=dict)  # bits per byte, held-out text
    privacy: Mapping[str, float] = field(default_factory=dict)  # epsilon, delta; empty: none
    format: int = FORMAT

    def __post_init__(self) -> None:
        _require(self.format == FORMAT, f"format {self.format}; this version reads {FORMAT}")
        _require(0 < len(self.domain) <= MAX_DOMAIN and self.domain.isprintable(), "bad domain")
        for text in (self.description, self.licence):
            _require(len(text) <= MAX_TEXT, f"a text of {len(text)} characters")
        for digest in (self.base, self.weights):
            _require(_is_hash(digest), f"{digest[:80]!r} is not a hash")
        _require(self.weights_bytes > 0, "the size is not positive")
        _require(0 < self.issued_at_ms < MAX_TIME_MS, "the time is out of range")
        for facts in (self.training, self.data, self.evaluation, self.privacy):
            _require(all(map(_is_finite, facts.values())), "a number is not finite")
        _require(all(n >= 0 for n in (*self.origins, *self.ranks)), "a number is negative")

    def signed_bytes(self) -> bytes:
        """What the signature covers."""
        content = dataclasses.asdict(self)
        return _PREFIX + json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


@dataclass(frozen=True)
class SignedCard:
    """A card whose signature was checked."""

    card: ExpertCard
    signature: bytes

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the signed card: another version of an expert has another id."""
        return hashlib.sha256(self.card.signed_bytes()).hexdigest()

    def to_json(self) -> bytes:
        """Content of `card.json`."""
        content = {"card": dataclasses.asdict(self.card), "signature": self.signature.hex()}
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, origin: str = "card.json") -> SignedCard:
        """Read and check a card.

        Raises `ARTIFACT_OVERSIZED`, `CARD_INVALID` (not a card of this format) or
        `SIGNATURE_INVALID` (changed after its owner signed it).
        """
        if len(data) > MAX_CARD_BYTES:
            raise SwarmError(
                Code.ARTIFACT_OVERSIZED, f"{origin} has {len(data)} bytes, over {MAX_CARD_BYTES}"
            )
        content = parse_json(data, Code.CARD_INVALID, origin)
        try:
            card = _card(content["card"])
            signature = bytes.fromhex(content["signature"])
        except (KeyError, TypeError, ValueError) as error:
            raise _invalid(f"{origin}: {error}") from error
        if not verify(card.owner, card.signed_bytes(), signature):
            raise SwarmError(
                Code.SIGNATURE_INVALID,
                f"{origin} is not signed by its owner {card.owner}",
                "somebody changed it; get it again from its owner",
            )
        return cls(card, signature)


def sign_card(identity: Identity, card: ExpertCard) -> SignedCard:
    """Sign a card as its owner. Raises `CARD_INVALID` when the owner is somebody else."""
    _require(card.owner == identity.peer_id, f"the owner is {card.owner}, not {identity.peer_id}")
    return SignedCard(card, identity.sign(card.signed_bytes()))


def _card(content: Any) -> ExpertCard:
    """A card from JSON values, each of exactly the type that the field has."""
    if not isinstance(content, dict):
        raise TypeError("card is not an object")
    fields = {f.name: f.type for f in dataclasses.fields(ExpertCard)}
    if unknown := sorted(content.keys() - fields.keys()):
        raise ValueError(f"unknown field {unknown[0]!r}")
    values = {name: _value(name, str(fields[name]), value) for name, value in content.items()}
    return ExpertCard(**values)


def _value(name: str, kind: str, value: Any) -> Any:
    if kind == "tuple[int, ...]":
        if isinstance(value, list) and all(type(n) is int for n in value):
            return tuple(value)
    elif kind.startswith("Mapping"):
        if isinstance(value, dict) and all(type(n) in (int, float) for n in value.values()):
            return value
    elif type(value).__name__ == kind:
        return value
    raise TypeError(f"{name} is not of type {kind}")


def _is_hash(text: str) -> bool:
    return len(text) == _HASH_LENGTH and all(c in "0123456789abcdef" for c in text)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more digits than any fp64 has
        return False


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise _invalid(problem)


def _invalid(problem: str) -> SwarmError:
    return SwarmError(
        Code.CARD_INVALID, f"no usable expert card: {problem}", "get it again from its owner"
    )
