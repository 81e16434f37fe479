"""What a peer concludes from what others see of it."""

from __future__ import annotations

import asyncio

import pytest

from swarm.errors import Code, SwarmError
from swarm.network.limits import DIAL_BACKS
from swarm.network.p2p import observing
from swarm.network.p2p.observing import Answers
from swarm.network.reachability import Nat, Observation, Reachability, judge, network_hash
from swarm.wire.control_pb2 import DialBack

HOME = "192.168.1.5"
ROUTER = "11.7.0.101"
PORT = 4700


def seen(number: int, port: int = PORT, *, host: str = ROUTER, own: str = HOME, **more):
    return Observation(f"11.7.0.{10 + number}", host, port, own, **more)


CLOSED: frozenset[int] = frozenset()
OPEN = frozenset({PORT})


@pytest.mark.parametrize(
    ("observations", "kind", "hidden"),
    [
        ([], Nat.UNKNOWN, False),
        ([seen(1, own=ROUTER, open_ports=OPEN)], Nat.PUBLIC, False),
        ([seen(1, own=ROUTER, open_ports=CLOSED), seen(2, own=ROUTER)], Nat.FIREWALLED, True),
        ([seen(1, own=ROUTER)], Nat.UNKNOWN, False),
        ([seen(1, open_ports=OPEN), seen(2)], Nat.FORWARDED, True),
        ([seen(1, open_ports=CLOSED), seen(2)], Nat.ENDPOINT_INDEPENDENT, True),
        ([seen(1, 20001), seen(2, 20002, open_ports=CLOSED)], Nat.SYMMETRIC, True),
        ([seen(1, open_ports=CLOSED)], Nat.UNKNOWN, True),
        ([seen(1, host="192.168.1.5")], Nat.LOCAL, False),
    ],
)
def test_kind_follows_from_what_others_see(observations, kind, hidden) -> None:
    reach = judge(observations, PORT)
    assert (reach.nat, reach.hidden) == (kind, hidden)
    assert reach.reason


def test_one_connection_from_another_port_makes_no_nat_symmetric() -> None:
    reach = judge([seen(1, 51234), seen(2), seen(3)], PORT)
    assert reach.nat is Nat.ENDPOINT_INDEPENDENT


def test_connections_from_other_ports_tell_that_there_is_a_nat_but_not_which() -> None:
    others = [seen(n, 50000 + n, listening=False) for n in (1, 2, 3, 4)]
    reach = judge(others, PORT)
    assert (reach.nat, reach.hidden) == (Nat.UNKNOWN, True)


def test_two_connections_of_one_observer_are_one_view() -> None:
    reach = judge([seen(1), seen(1)], PORT)
    assert reach.nat is Nat.UNKNOWN


def test_a_private_view_does_not_count_where_there_is_a_public_one() -> None:
    neighbour = Observation("192.168.1.9", HOME, PORT, HOME)
    reach = judge([neighbour, seen(1), seen(2)], PORT)
    assert reach.nat is Nat.ENDPOINT_INDEPENDENT
    assert reach.observed == (f"{ROUTER}:{PORT}",)
    assert reach.public_host == ROUTER


def test_the_open_port_is_where_strangers_call_the_one_that_was_chosen_first() -> None:
    open_ports = frozenset({PORT, 1024})
    assert judge([seen(1, open_ports=open_ports)], PORT).direct == ((ROUTER, PORT), (ROUTER, 1024))


def test_the_user_knows_better() -> None:
    reach = judge([seen(1, 20001), seen(2, 20002)], PORT, ["/ip4/1.2.3.4/tcp/4700"])
    assert reach.nat is Nat.FORWARDED
    assert "/ip4/1.2.3.4/tcp/4700" in reach.reason


def test_only_peers_of_one_run_and_one_public_address_have_equal_hashes() -> None:
    one, other = b"r" * 32, b"s" * 32
    assert network_hash(one, ROUTER) == network_hash(one, ROUTER)
    assert network_hash(one, ROUTER) != network_hash(other, ROUTER)
    assert network_hash(one, ROUTER) != network_hash(one, "11.7.0.102")
    assert network_hash(one, Reachability().public_host) == b""


def test_one_peer_can_not_have_all_dial_backs(monkeypatch) -> None:
    async def slow(host: str, ports: list[int]) -> list[int]:
        return await asyncio.Event().wait() or [] if host == "11.7.0.66" else ports

    async def connections() -> dict[str, list[str]]:
        hosts = {"greedy": "11.7.0.66", "other": ROUTER}
        return {peer: [f"/ip4/{host}/tcp/{PORT}"] for peer, host in hosts.items()}

    async def story() -> None:
        monkeypatch.setattr(observing, "libp2p_ports", slow)
        answers = Answers(connections, lambda: False, lambda peer: False)
        request = DialBack(ports=[PORT])
        most = DIAL_BACKS.peer.at_once
        asking = [asyncio.ensure_future(answers.dial_back("greedy", request)) for _ in range(most)]
        await asyncio.sleep(0)
        with pytest.raises(SwarmError) as caught:
            await answers.dial_back("greedy", request)
        assert caught.value.code is Code.OVER_LIMIT
        assert (await answers.dial_back("other", request)).ports == [PORT]
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        asking = [asyncio.ensure_future(answers.dial_back("greedy", request))]
        await asyncio.sleep(0)
        assert not asking[0].done()  # there is room again
        asking[0].cancel()

    asyncio.run(story())
