"""What strangers may send as an expert, and the code with which each of it is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from owners import signed_card, tiny_base, trained

from node.experts.folder import NOTICE_FILE, learn_notice, load_notice, write_notice
from node.experts.offers import merge_offers, pack_offers
from node.experts.view import card_lines
from swarm.errors import Code, SwarmError
from swarm.experts.artifact import (
    CARD_FILE,
    WEIGHTS_FILE,
    ExpertTensors,
    check_expert,
    load_card,
    load_expert,
    save_expert,
)
from swarm.experts.cards import SignedCard, sign_card
from swarm.experts.safe_files import read_tensors
from swarm.experts.withdrawals import Notice, Notices, sign_notice
from swarm.identity import Identity

OWNER = Identity.generate()
Arrays = dict[str, np.ndarray]


def refusal(action: Callable[[], object]) -> Code:
    with pytest.raises(SwarmError) as caught:
        action()
    return caught.value.code


def sent(change: Callable[[Arrays], object] = lambda arrays: None) -> tuple[SignedCard, bytes]:
    """An expert whose owner signed it after `change`: the card itself is honest about it."""
    tensors = trained("law")
    arrays = {name: values.copy() for name, values in tensors.arrays.items()}
    change(arrays)
    changed = ExpertTensors(arrays, tensors.origins)
    data = changed.pack()
    return signed_card(OWNER, "law", changed, data), data


def test_an_honest_expert_comes_back_as_it_was(tmp_path: Path) -> None:
    signed, data = sent()
    save_expert(tmp_path, signed, data)
    assert load_card(tmp_path) == signed
    expert = load_expert(tmp_path, tiny_base())
    assert (expert.id, expert.domain, expert.owner) == (signed.id, "law", OWNER.peer_id)
    assert expert.tensors.pack() == data


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda a: a.update({"model.embed_tokens.weight": a["layers.0.row"]}), Code.EXPERT_FOREIGN),
        (lambda a: a.update({"layers.2.row": a["layers.0.row"]}), Code.EXPERT_FOREIGN),
        (lambda a: a.update({"layers.00.row": a["layers.0.row"]}), Code.EXPERT_FOREIGN),
        (lambda a: a.update({f"layers.{'9' * 5000}.row": np.ones(1)}), Code.EXPERT_FOREIGN),
        (lambda a: a["layers.1.row"].__setitem__(3, np.nan), Code.NON_FINITE),
        (lambda a: a["layers.1.up_proj.weight"].__imul__(1e4), Code.EXPERT_ABSURD),
        (lambda a: a["layers.0.row"].__imul__(1e6), Code.EXPERT_ABSURD),
        (lambda a: a.update({"layers.0.bias": np.float32(0.5)}), Code.EXPERT_ABSURD),
        (lambda a: a.pop("layers.0.down_proj.weight"), Code.EXPERT_CORRUPT),
        (lambda a: a.update({"layers.0.row": a["layers.0.row"][:-1]}), Code.EXPERT_CORRUPT),
        (lambda a: a.update({"layers.0.up_proj.a": a["layers.0.row"]}), Code.EXPERT_CORRUPT),
    ],
)  # fmt: skip
def test_each_kind_of_bad_tensor_has_its_code(
    change: Callable[[Arrays], object], code: Code
) -> None:
    signed, data = sent(change)
    assert refusal(lambda: check_expert(signed, data, tiny_base())) is code


def test_factors_whose_product_is_absurd_are_refused_too() -> None:
    tensors = trained("law", rank=4)
    arrays = {n: v * np.float32(1e19) if n[-2:] in (".a", ".b") else v
              for n, v in tensors.arrays.items()}  # fmt: skip
    arrays["layers.0.up_proj.b"] = np.ones_like(arrays["layers.0.up_proj.b"]) * np.float32(1e30)
    changed = ExpertTensors(arrays, tensors.origins)
    data = changed.pack()
    signed = signed_card(OWNER, "law", changed, data)
    assert refusal(lambda: check_expert(signed, data, tiny_base())) is Code.EXPERT_ABSURD


def test_an_expert_beside_another_base_is_refused() -> None:
    signed, data = sent()
    assert refusal(lambda: check_expert(signed, data, tiny_base(3))) is Code.BASE_MISMATCH


def test_other_tensors_than_the_card_names_are_refused(tmp_path: Path) -> None:
    signed, _ = sent()
    _, other = sent(lambda a: a["layers.0.row"].__iadd__(1))
    assert refusal(lambda: check_expert(signed, other, tiny_base())) is Code.EXPERT_CORRUPT
    save_expert(tmp_path, signed, other + b"more")
    assert refusal(lambda: load_expert(tmp_path, tiny_base())) is Code.EXPERT_CORRUPT


def test_a_header_of_ten_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    data = (10 * 2**30).to_bytes(8, "little") + b"{"
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(data)
    assert refusal(lambda: read_tensors(path, limit=100)) is Code.ARTIFACT_OVERSIZED
    signed = signed_card(OWNER, "law", trained("law"), data)
    assert refusal(lambda: check_expert(signed, data, tiny_base())) is Code.ARTIFACT_OVERSIZED


def test_a_file_of_ten_gigabytes_of_tensors_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / WEIGHTS_FILE
    header = b"{}".ljust(8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(10 * 2**30)  # sparse: takes no room
    assert refusal(lambda: read_tensors(path, limit=2**20)) is Code.ARTIFACT_OVERSIZED


def test_a_card_or_a_notice_of_ten_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    signed, data = sent()
    save_expert(tmp_path, signed, data)
    for name, read in (
        (NOTICE_FILE, lambda: load_notice(tmp_path, signed)),
        (CARD_FILE, lambda: load_card(tmp_path)),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(10 * 2**30)  # sparse: takes no room
        assert refusal(read) is Code.ARTIFACT_OVERSIZED


def test_a_card_that_promises_too_many_bytes_is_refused_before_the_download() -> None:
    signed, data = sent()
    huge = sign_card(OWNER, dataclasses.replace(signed.card, weights_bytes=10 * 2**30))
    assert refusal(lambda: check_expert(huge, data, tiny_base())) is Code.ARTIFACT_OVERSIZED


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("licence", "do what you want", Code.SIGNATURE_INVALID),
        pytest.param("owner", Identity.generate().peer_id, Code.SIGNATURE_INVALID, id="another"),
        ("owner", "nobody", Code.SIGNATURE_INVALID),
        ("weights_bytes", "1", Code.CARD_INVALID),
        ("origins", [0.5], Code.CARD_INVALID),
        ("base", "../../etc", Code.CARD_INVALID),
        ("format", 2, Code.CARD_INVALID),
        ("issued_at_ms", 10**17, Code.CARD_INVALID),
        ("evaluation", {"expert_bits_per_byte": 10**400}, Code.CARD_INVALID),
        ("surprise", 1, Code.CARD_INVALID),
    ],
)
def test_a_tampered_card_is_refused(field: str, value: object, code: Code) -> None:
    content = json.loads(sent()[0].to_json())
    content["card"][field] = value
    assert refusal(lambda: SignedCard.parse(json.dumps(content).encode())) is code


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xff\x00", Code.CARD_INVALID),
        (b"[" * 60_000, Code.CARD_INVALID),
        (sent()[0].to_json().replace(b'"data": {}', b'"data": {"n": 1e999}'), Code.CARD_INVALID),
        (b"{" + b" " * 70_000 + b"}", Code.ARTIFACT_OVERSIZED),
    ],
)
def test_what_is_no_card_is_refused(data: bytes, code: Code) -> None:
    assert refusal(lambda: SignedCard.parse(data)) is code


def notice(owner: Identity, expert: str, sequence: int, *, withdrawn: bool = True) -> Notice:
    signed = sign_notice(owner, expert, sequence=sequence, withdrawn=withdrawn, at_ms=1)
    return Notice.parse(signed.to_json())


def test_a_withdrawal_holds_until_the_owner_says_otherwise() -> None:
    expert, notices = sent()[0].id, Notices()
    notices.require_offered(expert)
    notices.accept(notice(OWNER, expert, 1), OWNER.peer_id)
    assert refusal(lambda: notices.require_offered(expert)) is Code.EXPERT_WITHDRAWN
    notices.accept(notice(OWNER, expert, 2, withdrawn=False), OWNER.peer_id)
    notices.require_offered(expert)


def test_a_withdrawal_that_is_played_back_later_changes_nothing() -> None:
    expert, notices = sent()[0].id, Notices()
    first = notice(OWNER, expert, 1)
    notices.accept(first, OWNER.peer_id)
    notices.accept(first, OWNER.peer_id)  # heard twice
    notices.accept(notice(OWNER, expert, 2, withdrawn=False), OWNER.peer_id)
    assert refusal(lambda: notices.accept(first, OWNER.peer_id)) is Code.NOTICE_STALE
    notices.require_offered(expert)


def test_nobody_withdraws_the_expert_of_another() -> None:
    expert, thief = sent()[0].id, Identity.generate()
    stranger = notice(thief, expert, 9)
    assert refusal(lambda: Notices().accept(stranger, OWNER.peer_id)) is Code.SIGNATURE_INVALID
    forged = dataclasses.replace(stranger, owner=OWNER.peer_id)
    assert refusal(lambda: Notice.parse(forged.to_json())) is Code.SIGNATURE_INVALID


def test_an_old_notice_played_back_to_who_fetches_again_changes_nothing(tmp_path: Path) -> None:
    signed, data = sent()
    save_expert(tmp_path, signed, data)
    offered, withdrawn = (
        notice(OWNER, signed.id, 1, withdrawn=False),
        notice(OWNER, signed.id, 2),
    )
    learn_notice(tmp_path, signed, Notices([withdrawn]))
    for heard in (Notices([offered]), Notices()):  # played back, or kept back
        learn_notice(tmp_path, signed, heard)
        assert load_notice(tmp_path, signed) == withdrawn
        assert refusal(lambda heard=heard: heard.require_offered(signed.id)) is (
            Code.EXPERT_WITHDRAWN
        )


def test_a_fetch_into_the_directory_of_another_expert_leaves_its_notice(tmp_path: Path) -> None:
    signed, data = sent()
    save_expert(tmp_path, signed, data)
    write_notice(tmp_path, notice(OWNER, signed.id, 1))
    other, _ = sent(lambda a: a["layers.0.row"].__iadd__(1))
    learn_notice(tmp_path, other, Notices([notice(OWNER, other.id, 5)]))
    found = load_notice(tmp_path, signed)
    assert found is not None and found.withdrawn


def test_a_text_on_a_card_can_not_pass_for_another_fact_of_it() -> None:
    honest = sent()[0].card
    card = dataclasses.replace(honest, description="law\nprivacy       epsilon 0.1\x1b[2J")
    lines = card_lines(sign_card(OWNER, card), None)
    assert [line for line in lines if line.startswith("privacy")] == [
        "privacy       no guarantee: parts of the text may be drawn out of the weights"
    ]
    assert all(line.isprintable() for line in lines)


def test_offers_of_strangers_are_merged_and_the_bad_ones_counted() -> None:
    signed, _ = sent()
    gone = notice(OWNER, signed.id, 1)
    found = merge_offers(
        {
            "a": pack_offers([(signed, None)]),
            "b": pack_offers([(signed, gone)]),
            "c": b"{}",
            "d": b"not json",
            "e": json.dumps({"experts": [{"card": "{}", "notice": ""}, 7]}).encode(),
        }
    )
    assert found.listed[signed.id].peers == ["a", "b"]
    assert found.withdrawn(signed.id)
    assert found.pick("law").card == signed
    assert found.refused == {"MESSAGE_MALFORMED": 3, "CARD_INVALID": 1}
    assert refusal(lambda: found.pick("medicine")) is Code.USAGE
