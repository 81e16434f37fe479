"""A name for people, made from a peer id: the same one always, `calm-otter-42`."""

from __future__ import annotations

import hashlib

MANNERS = (
    "able", "amber", "bold", "brave", "bright", "brisk", "calm", "candid", "clear", "clever",
    "cosy", "crisp", "eager", "early", "fair", "fleet", "fond", "frank", "fresh", "gentle",
    "glad", "golden", "grand", "happy", "hardy", "honest", "jolly", "keen", "kind", "light",
    "lively", "loyal", "lucky", "merry", "mild", "neat", "noble", "patient", "plain", "polite",
    "proud", "quick", "quiet", "ready", "serene", "sharp", "shy", "silver", "sincere", "smart",
    "snug", "solid", "spry", "steady", "stout", "sunny", "swift", "tidy", "trusty", "warm",
    "wise", "witty", "young", "zesty",
)  # fmt: skip
ANIMALS = (
    "badger", "bear", "beaver", "bee", "bison", "crane", "crow", "deer", "dolphin", "dove",
    "duck", "eagle", "egret", "elk", "falcon", "ferret", "finch", "fox", "frog", "gecko",
    "goat", "goose", "gull", "hare", "hawk", "hedgehog", "heron", "horse", "ibis", "jay",
    "kestrel", "koala", "lark", "lemur", "lynx", "magpie", "marten", "mole", "moose", "mouse",
    "newt", "ocelot", "orca", "otter", "owl", "panda", "parrot", "pelican", "penguin", "puffin",
    "rabbit", "raven", "robin", "seal", "sparrow", "stork", "swan", "tapir", "tern", "toad",
    "trout", "turtle", "vole", "wren",
)  # fmt: skip


def friendly_name(peer_id: str) -> str:
    """One of 400 000 names; not a proof of who somebody is."""
    digest = hashlib.sha256(peer_id.encode()).digest()
    manner, animal = MANNERS[digest[0] % len(MANNERS)], ANIMALS[digest[1] % len(ANIMALS)]
    return f"{manner}-{animal}-{digest[2] % 90 + 10}"
