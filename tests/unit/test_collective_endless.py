"""Nobody waits for what nobody gives, and a long run with many short lives does not grow."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swarm.collective import ledger
from swarm.collective.changes import sign_change
from swarm.collective.exchange import ExchangeRegistry
from swarm.collective.protocol import effects, events
from swarm.collective.protocol.health import FORGET_S
from swarm.errors import SwarmError
from swarm.identity import Identity, public_key_of
from swarm.wire import collective_pb2 as pb
from swarm.wire.data_pb2 import ReduceHello
from tests.unit.machine_net import NAMES, TIMEOUTS, Net, leader_of

KEY = Identity(Ed25519PrivateKey.from_private_bytes(b"k" * 32))


@pytest.fixture
def net():
    net = Net(NAMES)
    net.round()
    return net


def left(net, name):
    return any(n == name and isinstance(e, effects.Left) for n, e in net.done)


def leave(net, name):
    net.done.clear()
    net.feed(name, events.LeaveAsked())
    net.run_until(lambda: left(net, name))


# ---- waiting --------------------------------------------------------------------------------


def test_one_that_gave_up_its_vote_does_not_keep_it_for_the_next_who_leaves():
    """If both gave it up, nobody could ever decide the open round."""
    net = Net(("ann", "bob"))
    net.round()
    leave(net, "ann")
    assert net.machines["ann"].memory.has_resigned
    net.feed("ann", events.StayAsked())
    leave(net, "bob")
    assert not net.machines["bob"].memory.abstains


def test_an_answer_to_a_leaving_that_was_given_up_does_not_count_for_the_next(net):
    """Whoever stayed when it was asked may have left since."""
    others = [n for n in NAMES if n != "ann"]
    carry_out, late = net.carry_out, []

    def hold_back(name, effect):
        said = getattr(effect, "message", None)
        if isinstance(effect, effects.Answer) and isinstance(said, pb.ResignationReply):
            late.append((name, effect))
        else:
            carry_out(name, effect)

    net.carry_out = hold_back
    net.feed("ann", events.LeaveAsked())
    net.run_until(lambda: len(late) == 3)
    net.feed("ann", events.StayAsked())
    net.carry_out = carry_out
    for name, effect in late:
        carry_out(name, effect)
    for name in others:
        net.stop("killed", name)
    net.feed("ann", events.LeaveAsked())
    net.done.clear()
    net.run_until(lambda: left(net, "ann"))
    assert not net.machines["ann"].memory.abstains


def test_who_stayed_in_the_last_round_is_asked_again_in_the_next(net):
    """All are stopped at once: the one that keeps its vote must be a member when they resign."""
    machine = net.machines["ann"]
    machine.memory.promise(b"the open round", (1, "bob"))
    net.feed("ann", events.LeaveAsked())
    net.run_until(lambda: net.now >= 0.5)  # the others stay; it waits for the round
    for name in NAMES[1:]:
        net.feed(name, events.LeaveAsked())
    record = pb.RoundRecord()
    record.CopyFrom(machine.memory.record)
    record.round, record.previous = record.round + 1, machine.memory.commit_id
    machine.history.adopt(pb.Commit(record=record.SerializeToString()), record)
    net.done.clear()
    net.feed("ann", events.Adopted(()))
    net.run_until(lambda: left(net, "ann"))
    assert not machine.memory.abstains


@pytest.mark.parametrize("promised", [False, True])
def test_who_waits_for_a_leaving_is_told_when_it_is_given_up(net, promised):
    if promised:
        net.machines["ann"].memory.promise(b"the open round", (1, "bob"))
    net.done.clear()
    net.feed("ann", events.LeaveAsked())
    if promised:
        net.run_until(lambda: net.now >= 0.5)
    assert not left(net, "ann")
    net.feed("ann", events.StayAsked())
    assert left(net, "ann") and not net.machines["ann"].memory.abstains


def paused_net():
    net = Net(NAMES)
    for machine in net.machines.values():
        key = public_key_of(KEY.peer_id).public_bytes_raw().hex()
        object.__setattr__(machine.setup.manifest, "run_public_key", key)
    net.round()
    manifest = net.machines["ann"].setup.manifest
    paused = sign_change(manifest, KEY, pb.RunChange(number=1, paused=True))
    for machine in net.machines.values():
        object.__setattr__(machine.setup, "change", lambda: paused)
    assert net.round().change == paused
    return net


def test_a_member_that_hangs_but_answers_does_not_keep_the_run_paused_for_ever():
    net = paused_net()
    hangs = next(n for n in NAMES if n != leader_of(net))
    index = net.machines["ann"].memory.next_round
    began = net.now
    for name in NAMES:
        if name != hangs:
            net.feed(name, events.Offered(net.machines[name].memory.commit_id, None))
    net.run_until(lambda: net.committed(index))
    assert net.now - began <= TIMEOUTS.round_s + TIMEOUTS.heartbeat_s
    record = net.machines["ann"].memory.record
    assert list(record.roster) == sorted(NAMES)


# ---- growing --------------------------------------------------------------------------------


def test_peers_that_came_and_went_are_forgotten(net):
    machine = net.machines["ann"]
    for number in range(100):
        machine.health.heard_from(f"guest{number}")
        machine.health.suspects[f"guest{number}"] = "does not answer"
        machine.boundary.petitions[f"guest{number}"] = (pb.Ready(), net.now + 3.0)
    assert len(machine.boundary.ready().suspects) == 100
    net.now += FORGET_S + 1.0
    net.round()
    assert not machine.boundary.ready().suspects and not machine.boundary.petitions
    assert machine.health.heard.keys() <= set(NAMES)


def test_the_word_on_disk_is_of_the_open_round_only(net):
    for _ in range(5):
        net.round()
    sizes = [len(e.word.acceptors) for _, e in net.done if isinstance(e, effects.PersistWord)]
    assert len(sizes) >= 5 * 2 * len(NAMES) and set(sizes) == {1}


def test_a_branch_in_lower_rounds_is_not_what_is_forgotten_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "KEPT_COMMITS", 3)

    def save(branch, round_index):
        record = pb.RoundRecord(branch=branch, round=round_index)
        ledger.Ledger(tmp_path).save_commit(pb.Commit(record=record.SerializeToString()))

    for round_index in range(90, 95):
        save(b"left", round_index)
    for round_index in range(40, 43):
        save(b"better", round_index)
    kept = [pb.Commit.FromString(p.read_bytes()) for p in (tmp_path / "commits").iterdir()]
    assert {pb.RoundRecord.FromString(c.record).branch for c in kept} == {b"better"}


def test_who_came_before_its_plan_is_not_remembered():
    registry = ExchangeRegistry(timedelta(seconds=0.01))
    for number in range(10):
        hello = ReduceHello(round=1)
        with pytest.raises(SwarmError, match="no such attempt"):
            registry.handle(f"guest{number}", SimpleNamespace(send=lambda kind: None), hello)
    assert not registry._early
