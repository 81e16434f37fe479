"""Changes of a running run: signed, never older, in effect for all at the same round."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from node.halting import refuse_ended
from node.run_changes import RunChanges, describe
from swarm.collective.changes import (
    changed_manifest,
    check_change,
    in_effect,
    newest_change,
    read_change,
    sign_change,
)
from swarm.config import MembershipConfig, RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import Identity, public_key_of
from swarm.network.admission import Admission, open_to_all, rules_of
from swarm.network.tickets import make_ticket, permission_for, read_ticket
from swarm.simulation.swarm import SimulatedSwarm, toy_manifest
from swarm.training.policy import RunPolicy
from swarm.wire import collective_pb2 as pb
from swarm.wire.membership_pb2 import Permission

KEY = Identity(Ed25519PrivateKey.from_private_bytes(b"k" * 32))
STRANGER = Identity(Ed25519PrivateKey.from_private_bytes(b"s" * 32))
MANIFEST = RunManifest(run_public_key=public_key_of(KEY.peer_id).public_bytes_raw().hex())


def change(number: int, rate: float = 0.0, **fields: object) -> pb.SignedChange:
    settings = {"training.learning_rate": rate} if rate else {}
    return sign_change(MANIFEST, KEY, pb.RunChange(number=number, settings=settings, **fields))


def record_with(signed: pb.SignedChange) -> pb.RoundRecord:
    return pb.RoundRecord(change=signed)


def code_of(action: object, *arguments: object) -> Code:
    with pytest.raises(SwarmError) as caught:
        action(*arguments)  # type: ignore[operator]
    return caught.value.code


def test_a_change_is_read_as_it_was_signed() -> None:
    found = read_change(change(3, 0.01, paused=True), MANIFEST)
    assert (found.number, found.paused, found.run_id) == (3, True, MANIFEST.run_id)
    assert changed_manifest(MANIFEST, found).training.learning_rate == 0.01
    assert describe(found) == "change 3 of the run: training.learning_rate = 0.01, paused"


def test_nobody_else_can_change_the_run_and_no_bit_of_a_change_can_be_changed() -> None:
    assert code_of(sign_change, MANIFEST, STRANGER, pb.RunChange(number=1)) is Code.CONFIG_INVALID
    signed = change(1, 0.01)
    forged = pb.SignedChange(payload=signed.payload, signature=STRANGER.sign(signed.payload))
    assert code_of(read_change, forged, MANIFEST) is Code.SIGNATURE_INVALID
    bent = pb.SignedChange(payload=signed.payload + b"\x28\x01", signature=signed.signature)
    assert code_of(read_change, bent, MANIFEST) is Code.SIGNATURE_INVALID
    other = RunManifest(name="other", run_public_key=MANIFEST.run_public_key)
    assert code_of(read_change, signed, other) is Code.RUN_MISMATCH
    assert code_of(read_change, signed, RunManifest()) is Code.CONFIG_INVALID


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("training.learning_rate", -1.0),
        ("training.learning_rate", float("nan")),
        ("training.inner_steps", 2.5),
        ("training.inner_steps", 0),
        ("training.inner_steps", 4 * MANIFEST.training.inner_steps + 1),
        ("sync.experts_per_peer", MANIFEST.model.num_experts + 1),
        ("model.d_model", 64),
        ("learning_rate", 1),
    ],
)
def test_a_setting_that_can_not_be_is_not_signed(name: str, value: float) -> None:
    bad = pb.RunChange(number=1, settings={name: value})
    assert code_of(sign_change, MANIFEST, KEY, bad) is Code.CONFIG_INVALID


def test_a_leader_takes_the_highest_number_and_never_an_older_one() -> None:
    old, new, other = change(1, 0.01), change(2, 0.02), change(2, 0.03)
    assert newest_change(None, [], MANIFEST) == pb.SignedChange()
    assert newest_change(None, [old, new], MANIFEST) == new
    assert newest_change(record_with(new), [old], MANIFEST) == new
    assert newest_change(record_with(new), [other], MANIFEST) == new
    among = [newest_change(None, pair, MANIFEST) for pair in ([new, other], [other, new])]
    assert among[0] == among[1]
    lie = pb.SignedChange(payload=change(9).payload, signature=b"x" * 64)
    assert newest_change(record_with(old), [lie, pb.SignedChange()], MANIFEST) == old


def test_no_vote_is_given_to_a_record_that_drops_replays_or_forges_a_change() -> None:
    old, new = change(1, 0.01), change(2, 0.02)
    check_change(record_with(old), None, MANIFEST)
    check_change(record_with(new), record_with(old), MANIFEST)
    check_change(record_with(new), record_with(new), MANIFEST)
    replayed = (record_with(old), record_with(new), MANIFEST)
    assert code_of(check_change, *replayed) is Code.MESSAGE_MALFORMED
    dropped = (pb.RoundRecord(), record_with(new), MANIFEST)
    assert code_of(check_change, *dropped) is Code.SIGNATURE_INVALID
    forged = pb.SignedChange(payload=change(3).payload, signature=new.signature)
    assert code_of(check_change, record_with(forged), record_with(new), MANIFEST) is (
        Code.SIGNATURE_INVALID
    )


def toy_swarm(peers: int) -> tuple[SimulatedSwarm, RunManifest]:
    manifest = replace(toy_manifest(min_peers=peers), run_public_key=MANIFEST.run_public_key)
    return SimulatedSwarm(peers, manifest=manifest), manifest


def numbers(swarm: SimulatedSwarm) -> list[int]:
    return [int(in_effect(peer.ledger.record).number) for peer in swarm.peers]


def test_a_change_told_to_one_holds_for_all_from_the_same_commit_on() -> None:
    async def story() -> None:
        swarm, manifest = toy_swarm(4)
        await swarm.start()
        await swarm.round()
        assert numbers(swarm) == [0, 0, 0, 0]
        settings = {"training.learning_rate": 0.01}
        told = swarm.peers[2]
        told.change = sign_change(manifest, KEY, pb.RunChange(number=1, settings=settings))
        records = await swarm.round()
        assert len({record.change.payload for record in records}) == 1
        assert numbers(swarm) == [1, 1, 1, 1]
        swarm.kill(told)
        await swarm.round()
        await swarm.round()
        others, newcomer = list(swarm.peers), swarm.add()
        joining = asyncio.create_task(swarm.join(newcomer))
        while not joining.done():
            await asyncio.gather(*(peer.round() for peer in others))
            await asyncio.sleep(0.1)
        await joining
        assert numbers(swarm) == [1, 1, 1, 1]
        await swarm.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_a_paused_swarm_agrees_to_go_on_in_rounds_in_which_nothing_is_trained() -> None:
    async def story() -> None:
        swarm, manifest = toy_swarm(3)
        await swarm.start()
        swarm.peers[0].change = sign_change(manifest, KEY, pb.RunChange(number=1, paused=True))
        await swarm.round()
        before = swarm.peers[0].state.hashes()
        for number in (1, 2):
            if number == 2:
                resumed = pb.RunChange(number=2)
                swarm.peers[1].change = sign_change(manifest, KEY, resumed)
            await asyncio.gather(*(peer.member.run_round(None) for peer in swarm.peers))
            assert numbers(swarm) == [number] * 3
        assert swarm.peers[0].state.hashes() == before
        await swarm.close()

    asyncio.run(asyncio.wait_for(story(), 60))


def test_the_steps_of_a_commit_are_those_of_its_change() -> None:
    policy = RunPolicy(MANIFEST)
    signed = sign_change(
        MANIFEST, KEY, pb.RunChange(number=1, settings={"training.inner_steps": 12})
    )
    record = pb.RoundRecord(round=4, roster=["a", "b"], change=signed)
    policy.assign(record, None, {})
    assert [a.steps for a in record.assignments] == [12, 12]
    assert policy.steps_per_round(record) == 12
    assert policy.steps_per_round(None) == MANIFEST.training.inner_steps


def test_a_node_keeps_the_newest_change_until_a_commit_has_it() -> None:
    said: list[str] = []
    changes = RunChanges(MANIFEST, open_to_all(MANIFEST.run_id), said.append)
    assert changes.submit(change(2, 0.02).SerializeToString()) == 2
    assert changes.waiting and changes.effect.number == 0
    assert code_of(changes.submit, change(2, 0.5).SerializeToString()) is Code.USAGE
    changes.follow(None)
    changes.follow(record_with(pb.SignedChange()))
    assert said == []
    for _ in range(2):
        changes.follow(record_with(change(2, 0.02)))
        assert said == ["round 1 begins with change 2 of the run: training.learning_rate = 0.02"]
    assert not changes.waiting and not changes.halted
    changes.follow(record_with(change(5, ended=True)))
    assert changes.halted and changes.newest() == change(5, ended=True)


def test_a_node_of_an_ended_run_does_not_start_again() -> None:
    refuse_ended(None)
    refuse_ended(record_with(change(1, paused=True)))
    assert code_of(refuse_ended, record_with(change(2, ended=True))) is Code.RUN_ENDED


def test_who_is_revoked_is_let_in_no_more_by_his_id_or_by_his_ticket() -> None:
    closed = RunManifest(
        run_public_key=MANIFEST.run_public_key, membership=MembershipConfig(admission="ticket")
    )
    text = make_ticket(closed, KEY, [], expires_at_ms=10_000, max_peers=2)
    ticket = read_ticket(text)
    shown = {p.peer_id: permission_for(ticket, p.peer_id, 0) for p in (KEY, STRANGER)}
    key = Permission.FromString(shown[KEY.peer_id]).ticket_key.hex()
    admission = Admission(closed.run_id, rules_of(closed), lambda: 1.0)
    for peer, permission in shown.items():
        admission.check(peer, permission)

    admission.revoke([STRANGER.peer_id])
    assert not admission.admits(STRANGER.peer_id) and admission.admits(KEY.peer_id)
    assert code_of(admission.check, STRANGER.peer_id, shown[STRANGER.peer_id]) is Code.NOT_ADMITTED
    admission.check(KEY.peer_id, shown[KEY.peer_id])

    admission.revoke([key])
    assert not admission.admits(KEY.peer_id)
    assert code_of(admission.check, KEY.peer_id, shown[KEY.peer_id]) is Code.NOT_ADMITTED

    admission.revoke([])
    for peer, permission in shown.items():
        admission.check(peer, permission)
        assert admission.admits(peer)
