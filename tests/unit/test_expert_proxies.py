"""Public text is chosen that is like an owner's, and not the same thing over and over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from node.cli import run_command_line
from swarm.errors import Code, SwarmError
from swarm.experts.proxies import choose_proxies, diverse, seen

WORDS = {
    "law": "whereas the party of contract clause shall court hereby".split(),
    "cooking": "salt butter oven flour whisk sugar bake stir".split(),
    "music": "violin chord melody tempo octave sonata rhythm bass".split(),
}


def documents(kind: str, count: int, seed: int) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS[kind], 60)).encode() for _ in range(count)]


PUBLIC = [
    document
    for three in zip(*(documents(kind, 40, seed=1) for kind in WORDS), strict=True)
    for document in three
]  # every third is law
OWN = documents("law", 50, seed=2)


def test_what_is_chosen_is_like_the_owners_text_and_chosen_the_same_way_again() -> None:
    chosen = choose_proxies(OWN, PUBLIC, 20)
    assert len(set(chosen)) == 20
    assert all(place % 3 == 0 for place in chosen)
    assert choose_proxies(OWN, PUBLIC, 20) == chosen


def test_of_equally_fitting_documents_copies_are_taken_last() -> None:
    law = documents("law", 3, seed=3)
    kinds = seen([law[0], law[0], law[0], law[1], law[2]])
    chosen = diverse(np.ones(5), kinds, 5)
    assert sorted(chosen[:3]) in ([0, 3, 4], [1, 3, 4], [2, 3, 4])
    assert len(chosen) == 3  # copies add nothing


def test_the_greedy_set_is_that_of_the_determinants() -> None:
    rng = np.random.default_rng(0)
    x, relevance = rng.normal(size=(9, 6)).astype(np.float32), rng.uniform(0.2, 1, 9)
    kernel = np.diag(relevance) @ x @ x.T @ np.diag(relevance)
    expected: list[int] = []
    for _ in range(4):
        rest = [i for i in range(9) if i not in expected]
        expected.append(
            max(rest, key=lambda i: np.linalg.det(kernel[np.ix_([*expected, i], [*expected, i])]))
        )
    assert diverse(relevance, x, 4) == expected


def test_the_command_writes_public_text_alone(tmp_path: Path, capsys) -> None:
    for name, texts in (("own", OWN), ("public", PUBLIC)):
        lines = [json.dumps({"text": text.decode()}) + "\n" for text in texts]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines))
    words = ["--data", f"{tmp_path}/own.jsonl", "--public", f"{tmp_path}/public.jsonl"]
    out = tmp_path / "proxy.jsonl"
    assert (
        run_command_line(["expert", "proxies", *words, "--out", f"{out}", "--documents", "9"]) == 0
    )
    assert "wrote 9 of 120" in capsys.readouterr().out
    written = [json.loads(line)["text"].encode() for line in out.read_text().splitlines()]
    assert len(written) == 9
    assert set(written) <= set(PUBLIC)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(SwarmError) as caught:
        choose_proxies(OWN[:1], PUBLIC, 3)
    assert caught.value.code is Code.DATA_EMPTY
