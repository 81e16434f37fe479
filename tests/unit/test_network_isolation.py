"""Who is alone, told from pings that are answered or not; the clock is a number."""

from __future__ import annotations

import random

import pytest

from swarm.network.isolation import (
    LOOK_EVERY_S,
    PROBE_LIMIT_S,
    SAMPLE,
    Company,
    IsolationWatch,
    View,
    changes,
)

ME = "me"


class Network:
    """Drives a watch second by second, as the shell does; `up` answers pings."""

    def __init__(self, roster: set[str], others: set[str], up: set[str]) -> None:
        self.watch = IsolationWatch(ME, random.Random(7))
        self.roster, self.others, self.up = roster, others, up
        self.now_s = 100.0
        self.waiting: list[tuple[float, str, float]] = []
        self.probes = 0
        self.view = View()

    def run(self, seconds: float) -> View:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.step()
        return self.view

    def step(self) -> None:
        self.now_s += LOOK_EVERY_S
        for due_s, peer, asked_s in [w for w in self.waiting if w[0] <= self.now_s]:
            self.watch.missed(peer, asked_s)
            self.waiting.remove((due_s, peer, asked_s))
        self.watch.expect(self.roster, self.others, self.now_s)
        self.view = self.watch.look(self.now_s)
        for peer in self.watch.to_probe(self.now_s):
            self.probes += 1
            if peer in self.up:
                self.watch.heard(peer, self.now_s)
            else:
                self.waiting.append((self.now_s + PROBE_LIMIT_S, peer, self.now_s))

    def seconds_until(self, company: Company, limit: float = 60) -> float:
        began_s = self.now_s
        while self.view.company is not company:
            assert self.now_s - began_s < limit, self.view
            self.step()
        return self.now_s - began_s


def peers(count: int) -> set[str]:
    return {f"peer{number}" for number in range(count)}


@pytest.mark.parametrize("count", [1, 3, 200])
def test_a_cut_is_noticed_within_ten_seconds_and_its_end_within_four(count):
    network = Network({ME, *peers(count)}, set(), peers(count))
    assert network.run(20).company is Company.TOGETHER
    network.up = set()
    assert network.seconds_until(Company.ISOLATED) <= 10
    assert network.view.alone
    network.run(60)
    network.up = peers(count)
    assert network.seconds_until(Company.TOGETHER) <= 4


def test_the_first_peer_of_a_swarm_is_not_isolated():
    assert Network(set(), set(), set()).run(60).company is Company.NOBODY
    assert Network({ME}, {ME}, set()).run(60).company is Company.NOBODY


def test_a_peer_whose_every_known_address_is_dead_is_isolated_though_it_knows_no_roster():
    assert Network(set(), peers(2), set()).run(20).company is Company.ISOLATED


def test_under_half_of_the_roster_is_parted_and_half_is_not():
    network = Network({ME, *peers(5)}, set(), {"peer0", "peer1"})
    assert network.run(20).company is Company.TOGETHER  # three of six, itself included
    network.up = {"peer0"}
    assert network.seconds_until(Company.PARTED) <= 10
    assert not network.view.alone


def test_strangers_that_answer_do_not_make_up_for_members_that_do_not():
    network = Network({ME, "peer0"}, {"bootstrap"}, {"bootstrap"})
    view = network.run(20)
    assert (view.company, view.alone) == (Company.PARTED, True)


def test_many_strangers_do_not_drown_out_the_roster():
    strangers = {f"stranger{number}" for number in range(500)}
    network = Network({ME, *peers(8)}, strangers, strangers)
    assert network.run(20).company is Company.PARTED
    assert network.view.watched == SAMPLE


def test_a_single_lost_ping_is_no_silence():
    network = Network({ME, "peer0"}, set(), {"peer0"})
    network.run(10)
    network.up = set()
    network.run(2)
    network.up = {"peer0"}
    for _ in range(20):
        network.step()
        assert network.view.company is Company.TOGETHER


def test_a_ping_that_was_sent_before_a_sign_of_life_does_not_count_as_missed():
    watch = IsolationWatch(ME, random.Random(1))
    watch.expect({"peer0"}, (), 0.0)
    for asked_s in range(20):
        watch.heard("peer0", asked_s + 1.0)  # by a call of its own
        watch.missed("peer0", float(asked_s))
        assert watch.look(asked_s + 2.0).company is Company.TOGETHER


def test_who_was_suspended_blames_nobody_for_the_silence():
    network = Network({ME, "peer0"}, set(), set())
    network.run(6)  # one ping missed already
    network.now_s += 3600
    network.waiting.clear()
    assert network.run(1).company is Company.TOGETHER


def test_in_a_large_swarm_few_are_pinged():
    network = Network({ME, *peers(500)}, set(), peers(500))
    network.run(100)
    assert network.probes <= SAMPLE * 100 / 2


def test_silence_for_long_makes_a_connection_worthless_and_any_word_makes_it_good():
    network = Network({ME, *peers(2)}, set(), {"peer1"})
    network.run(9)
    assert network.watch.silent() == {"peer0"} and not network.watch.gone()
    network.run(8)
    assert network.watch.gone() == {"peer0"}
    network.watch.heard("peer0", network.now_s)
    assert not network.watch.silent() and not network.watch.gone()


def test_each_change_is_said_once_and_how_long_it_lasted():
    together = View(Company.TOGETHER, 0.0, 3, 3)
    isolated = View(Company.ISOLATED, 10.0, 0, 3)
    assert changes(together, isolated, 4) == (
        "warning: isolated: 0 of 3 watched peers answer; dialling 4 known peers"
    )
    assert changes(isolated, isolated, 4) == ""
    back = View(Company.TOGETHER, 71.0, 3, 3)
    assert changes(isolated, back, 4) == "in touch again after 61 s: 3 of 3 watched peers answer"
    assert changes(View(), together, 4) == ""
