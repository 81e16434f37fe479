"""The texts: six owners' own, a public mixture, and a domain that nobody has."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swarm.data import ByteTokenizer
from swarm.data.corpus import Corpus
from swarm.data.documents import DataReport

OWNERS = ("python", "law_en", "law_de", "medicine", "formal_maths", "chess")
PUBLIC = "fiction"
UNSEEN = "law_fr"
PUBLIC_ONE_IN = 10  # documents of an owner's domain that the public has too, and the owner has not


@dataclass(frozen=True)
class Texts:
    """`own` by owner; `public` is fiction and a little of every owner's domain, which `proxies` are
    by domain. `valid` are held-out token ids of all domains."""

    own: dict[str, Corpus]
    own_documents: dict[str, list[str]]
    proxies: dict[str, Corpus]
    public: Corpus
    public_documents: list[str]
    valid: dict[str, np.ndarray]


def read_texts(directory: Path, measured: int, skipped: int = 0) -> Texts:
    """The texts of `../shared/data`; `measured` tokens of each domain are held out.

    `skipped` of the held-out tokens come before them: choices are made on others than are reported.
    """
    own, proxies, public = {}, {}, documents(directory / f"{PUBLIC}.train.jsonl")
    for domain in OWNERS:
        every = documents(directory / f"{domain}.train.jsonl")
        proxy = every[::PUBLIC_ONE_IN]
        own[domain] = [d for i, d in enumerate(every) if i % PUBLIC_ONE_IN]
        proxies[domain] = corpus(proxy)
        public += proxy
    valid = {
        domain: tokens(documents(directory / f"{domain}.valid.jsonl"))[
            skipped : skipped + measured + 1
        ]
        for domain in (*OWNERS, PUBLIC, UNSEEN)
    }
    public = shuffled(public)
    corpora = {domain: corpus(texts) for domain, texts in own.items()}
    return Texts(corpora, own, proxies, corpus(public), public, valid)


def documents(path: Path) -> list[str]:
    """Texts of a file, in an order that does not follow the source's."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return shuffled([json.loads(line)["text"] for line in lines])


def shuffled(texts: list[str]) -> list[str]:
    return sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest())


def tokens(texts: list[str]) -> np.ndarray:
    tokenizer = ByteTokenizer()
    parts = [[tokenizer.BOS], [tokenizer.EOS]]
    framed = [(parts[0], tokenizer.encode(text), parts[1]) for text in texts]
    return np.concatenate([np.asarray(part) for frame in framed for part in frame]).astype("<u2")


def corpus(texts: list[str]) -> Corpus:
    train = tokens(texts)
    digest = hashlib.sha256(train.tobytes()).hexdigest()
    return Corpus(train, train[:0], DataReport(), digest)
