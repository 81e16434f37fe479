"""Control messages over lanes that are open anyway: how they go, how they fail, what is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from lane_nodes import SHORT, WAIT, Node, both, error_of, exchange, lanes

from swarm.errors import Code
from swarm.network.lane import Kind
from swarm.network.messages import MAX_MESSAGE_BYTES, ask_on
from swarm.wire.data_pb2 import PLAIN, Call


def reversed_at_once(peer: str, data: bytes) -> Future[bytes]:
    reply: Future[bytes] = Future()
    reply.set_result(data[::-1])
    return reply


class Silent:
    """A handler whose replies never come, as of a process whose event loop hangs."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.replies: list[Future[bytes]] = []

    def __call__(self, peer: str, data: bytes) -> Future[bytes]:
        self.replies.append(Future())
        self.asked.set()
        return self.replies[-1]


@pytest.fixture(params=[True, False], ids=["sealed", "plain"])
def nodes(request) -> Iterator[tuple[Node, Node]]:
    options = {} if request.param else {"protection": PLAIN}
    alice, bob = Node(**options), Node(**options)
    alice.plane.set_message_handler(reversed_at_once)
    yield alice, bob
    bob.plane.stop()
    alice.plane.stop()


def lanes_of(alice: Node) -> int:
    return len(alice.plane._server._lanes)


def leave_open(alice: Node, bob: Node, count: int = 1) -> None:
    """Calls of bob, all at once, after which each of their lanes waits for the next one."""
    opened = [bob.plane.open_lane(alice.record, WAIT) for _ in range(count)]
    for lane in opened:
        assert exchange(lane, b"ab") == [b"ba"]
        bob.plane.release(lane)


def seconds_and_error(ask) -> tuple[float, Code]:
    began_s = time.monotonic()
    code = error_of(ask).code
    return time.monotonic() - began_s, code


def test_a_message_takes_a_lane_between_two_calls_and_leaves_it_for_the_next(nodes):
    alice, bob = nodes
    assert not bob.plane.can_ask(alice.peer_id, 3)  # nobody opens a lane for a message
    assert error_of(lambda: bob.plane.ask(alice.peer_id, b"abc", WAIT)).code is (
        Code.PEER_UNREACHABLE
    )
    leave_open(alice, bob)
    for size in (0, 3, MAX_MESSAGE_BYTES):
        data = bytes(range(256)) * (size // 256 + 1)
        assert bob.plane.can_ask(alice.peer_id, size)
        assert bob.plane.ask(alice.peer_id, data[:size], WAIT) == data[:size][::-1]
    leave_open(alice, bob)
    assert lanes_of(alice) == 1
    assert not bob.plane.can_ask(alice.peer_id, MAX_MESSAGE_BYTES + 1)


def test_messages_are_answered_when_the_traffic_for_today_is_used_up(nodes):
    alice, bob = nodes
    leave_open(alice, bob)
    alice.plane.set_serving(False)
    assert bob.plane.ask(alice.peer_id, b"abc", WAIT) == b"cba"


def test_who_asks_learns_at_once_that_the_peer_ended_with_the_message_under_way(nodes):
    alice, bob = nodes
    alice.plane.set_message_handler(silent := Silent())
    leave_open(alice, bob, count=2)
    ends: list[float] = []

    def end() -> None:
        assert silent.asked.wait(5)
        began_s = time.monotonic()
        alice.plane.stop()  # which waits for no reply: the loop that would make it may call this
        ends.append(time.monotonic() - began_s)

    ending = threading.Thread(target=end)
    ending.start()
    took_s, code = seconds_and_error(lambda: bob.plane.ask(alice.peer_id, b"abc", WAIT))
    ending.join()
    assert took_s < 1 and code in (Code.PEER_UNREACHABLE, Code.PEER_REFUSED)
    assert ends[0] < 0.5 and silent.replies[0].cancelled()
    assert not bob.plane.can_ask(alice.peer_id, 3)


def test_a_peer_that_does_not_answer_costs_the_limit_once(nodes):
    """All its lanes go the same way, so no other message tries another of them."""
    alice, bob = nodes
    alice.plane.set_message_handler(Silent())
    leave_open(alice, bob, count=3)
    took_s, code = seconds_and_error(lambda: bob.plane.ask(alice.peer_id, b"abc", SHORT))
    assert code is Code.PEER_STALLED and took_s < 3 * SHORT.total_seconds()
    assert not bob.plane.can_ask(alice.peer_id, 3)
    leave_open(alice, bob)  # a call opens a new one


def test_a_peer_that_serves_no_messages_is_asked_once(nodes):
    alice, bob = nodes
    leave_open(bob, alice)
    assert error_of(lambda: alice.plane.ask(bob.peer_id, b"abc", WAIT)).code is Code.PEER_REFUSED
    assert not alice.plane.can_ask(bob.peer_id, 3)


def test_who_stops_gets_no_lane_any_more(nodes):
    alice, bob = nodes
    leave_open(alice, bob)
    bob.plane.stop()
    assert not bob.plane.can_ask(alice.peer_id, 3)
    assert error_of(lambda: bob.plane.ask(alice.peer_id, b"abc", WAIT)).code is (
        Code.PEER_UNREACHABLE
    )


# ---- what is no message, and no reply -------------------------------------------------------


def test_a_message_that_goes_on_after_its_call_is_refused(nodes):
    alice, bob = nodes
    lane = bob.plane.open_lane(alice.record, WAIT)
    lane.send(Kind.CALL, 0, Call(message=b"abc").SerializeToString())
    lane.send(Kind.CHUNK, 0, b"more")
    frame = lane.receive()
    assert frame.kind is Kind.FAILURE and Code.MESSAGE_MALFORMED.value in lane.read().decode()


@both
@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([(Kind.CALL, 0, b"abc")], Code.MESSAGE_MALFORMED),
        ([(Kind.END,)], Code.MESSAGE_MALFORMED),
        ([(Kind.CHUNK, 0, b"abc"), (Kind.CHUNK, 1, b"d")], Code.MESSAGE_MALFORMED),
        ([(Kind.CHUNK, 0, b"abc")], Code.PEER_STALLED),
        ([(Kind.FAILURE, 0, b"OVER_LIMIT: not now")], Code.PEER_REFUSED),
    ],
    ids=["a call", "an end", "two chunks", "no end", "a failure"],
)
def test_what_is_no_reply_is_not_taken_for_one(sealed, frames, code):
    left, right = lanes(sealed)
    for frame in frames:
        right.send(*frame)
    assert error_of(lambda: ask_on(left, b"abc", SHORT)).code is code


def test_pulses_do_not_make_anybody_wait_for_a_reply_for_ever():
    left, right = lanes(sealed=True)
    done = threading.Event()

    def pulse() -> None:
        while not done.wait(0.02):
            right.send(Kind.PULSE)

    pulsing = threading.Thread(target=pulse)
    pulsing.start()
    took_s, code = seconds_and_error(lambda: ask_on(left, b"abc", SHORT))
    done.set()
    pulsing.join()
    assert code is Code.PEER_STALLED and took_s < 5 * SHORT.total_seconds()
