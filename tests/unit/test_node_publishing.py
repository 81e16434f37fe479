"""The record that a node publishes, and the tasks behind its rounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from daemon_parts import LIMIT_S, FakeNetwork, publisher_in
from polling import soon

from node.daemon_status import Status
from node.tasks import together
from swarm.errors import Code, SwarmError
from swarm.network.addresses import data_addresses
from swarm.wire.membership_pb2 import PeerRecord


def test_data_addresses_are_those_of_the_node_itself_with_ipv6_in_brackets() -> None:
    peer = "/p2p/12D3KooWEHnk6JvEDmQx21Yhwpze66ePzW6eGpNSxTTiraRvTyeU"
    announced = [
        f"/ip4/10.0.0.5/tcp/4001{peer}",
        f"/ip4/10.0.0.5/tcp/4002{peer}",
        f"/ip6/2001:db8::7/tcp/4001{peer}",
        f"/ip4/192.0.2.9/tcp/4001{peer}/p2p-circuit{peer}",
        f"/dns4/example.org/tcp/4001{peer}",
    ]
    assert data_addresses(announced, 50051) == ["10.0.0.5:50051", "[2001:db8::7]:50051"]


def test_publishing_goes_on_after_a_failure_that_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.publishing.LOOK_EVERY_S", 0.002)
    asked = []

    async def records() -> dict[str, PeerRecord]:
        asked.append(1)
        if len(asked) < 20:
            raise SwarmError(Code.PEER_UNREACHABLE, f"failed {len(asked)} times")
        return {"bert": PeerRecord(peer_id="bert")}

    async def main() -> None:
        said: list[str] = []
        network, status = FakeNetwork(), Status(said.append)
        status.device = "cpu"
        publisher = publisher_in(tmp_path, network, records, status)
        task = asyncio.create_task(publisher.run())
        await soon(lambda: bool(publisher.known))
        await soon(lambda: bool(network.published))
        task.cancel()
        assert [("failed" in line, "works again" in line) for line in said] == [
            (True, False), (False, True),
        ]  # fmt: skip
        assert publisher.paths == {"bert": "lan"}
        assert network.published[0].device == "cpu"  # not the argument, which is `auto`

    asyncio.run(main())


def test_a_dht_that_does_not_answer_at_the_start_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.publishing.LOOK_EVERY_S", 0.002)

    class Slow(FakeNetwork):
        async def publish(self, record: PeerRecord) -> None:
            tried.append(1)
            if len(tried) < 3:
                raise SwarmError(Code.PEER_UNREACHABLE, "the DHT did not answer in 8 s")
            await super().publish(record)

    async def records() -> dict[str, PeerRecord]:
        return {}

    async def main() -> None:
        network = Slow()
        publisher = publisher_in(tmp_path, network, records, Status(said.append))
        await publisher.begin()
        task = asyncio.create_task(publisher.run())
        await soon(lambda: bool(network.published))
        await soon(lambda: len(said) == 2)
        task.cancel()

    tried: list[int] = []
    said: list[str] = []
    asyncio.run(main())
    assert "did not answer" in said[0] and "works again" in said[1]


def test_a_defect_in_a_background_task_ends_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.publishing.LOOK_EVERY_S", 0.002)

    async def records() -> dict[str, PeerRecord]:
        raise KeyError("a defect")

    async def main() -> None:
        publisher = publisher_in(tmp_path, FakeNetwork(), records, Status(lambda line: None))
        with pytest.raises(KeyError):
            await asyncio.wait_for(together(asyncio.sleep(LIMIT_S), publisher.run()), LIMIT_S / 2)

    asyncio.run(main())


def test_a_background_task_that_just_ends_is_a_defect_too() -> None:
    async def nothing() -> None:
        return

    async def main() -> None:
        with pytest.raises(SwarmError) as caught:
            await asyncio.wait_for(together(asyncio.sleep(LIMIT_S), nothing()), LIMIT_S / 2)
        assert caught.value.code is Code.INTERNAL
        await together(nothing(), asyncio.sleep(LIMIT_S))

    asyncio.run(main())
