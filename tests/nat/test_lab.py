"""The lab is what it says: its NATs, its walls, the conditions of its links, and its end."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nat import netlab, netns, stun, topology
from tests.nat.conditions import Conditions, between
from tests.nat.netlab import Lab

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
PORT = 5001
OWNER = """
import subprocess, sys, time
from tests.nat.netlab import Lab
with Lab.up() as lab:
    lab.popen("a", ["sleep", "1000"])
    print(lab.name, flush=True)
    time.sleep(1000)
"""


def test_a_router_that_becomes_another_kind_is_noticed(lab: Lab) -> None:
    def set_kind(masquerade: str) -> None:
        rules = f"flush chain ip nat post\nadd rule ip nat post oifname wan {masquerade}\n"
        with lab.inside("rb"):
            netns.checked(["nft", "-f", "-"], rules)

    symmetric = stun.Verdict("symmetric", "port")
    with stun.servers(lab):
        set_kind("masquerade fully-random")
        try:
            assert stun.observe(lab, "b", "udp") == stun.observe(lab, "b", "tcp") == symmetric
        finally:
            set_kind("masquerade")
        assert stun.observe(lab, "b", "tcp") == stun.INDEPENDENT


def test_nothing_leaves_the_lab(lab: Lab) -> None:
    """From no namespace is this machine reached, by any of its addresses, nor anybody else."""
    inside = ("11.7.0.", "192.168.", "100.64.7.")
    outside = netns.checked(["hostname", "-I"]).split()
    with socket.create_server(("0.0.0.0", 0)) as here:
        port = here.getsockname()[1]
        for name in topology.NAMESPACES:
            routes = netns.checked(["ip", "-n", lab.names[name], "route"]).splitlines()
            for route in routes:
                target = route.split()[0]
                via = route.split()[2] if target == "default" else target
                assert via.startswith(inside), (name, route)
            for address in (a for a in outside if ":" not in a):
                with lab.inside(name), socket.socket() as sock:
                    sock.settimeout(1)
                    with pytest.raises(OSError):
                        sock.connect((address, port))


def test_a_peer_in_the_same_lan_is_reached_by_its_own_address(lab: Lab) -> None:
    before = lab.traffic(*topology.SITES)
    seconds(lab, "a", "a2", 4 * MIB)
    assert lab.traffic(*topology.SITES) - before < MIB / 100


def test_counters_tell_whose_link_was_used(lab: Lab) -> None:
    before = {site: lab.traffic(site) for site in ("a", "pub1", "pub2")}
    seconds(lab, "a", "pub1", 8 * MIB)
    used = {site: lab.traffic(site) - bytes_ for site, bytes_ in before.items()}
    assert 8 * MIB < used["a"] < 9 * MIB
    assert 8 * MIB < used["pub1"] < 9 * MIB
    assert used["pub2"] < MIB / 100


def test_latency_and_jitter_are_what_was_asked_for(lab: Lab) -> None:
    """A busy machine adds to any of the times, so only the lower ones have an upper bound."""
    with lab.conditions(between(round_trip_ms=50, loss=0)):
        times = sorted(round_trips(lab, "g", 20))
    assert 0.050 <= times[0] < 0.054

    with lab.conditions(Conditions(delay_ms=20, jitter_ms=10), ["g"]):
        times = sorted(round_trips(lab, "g", 60))
    assert 0.020 <= times[0] < 0.032
    assert times[6] + 0.008 < times[-6], "no jitter"
    assert times[0] < 0.040 < times[-1]
    assert min(round_trips(lab, "g", 20)) < 0.005, "it outlasted its context"


def test_losses_are_as_frequent_as_asked_for_and_repeat_with_their_seed(lab: Lab) -> None:
    with quiet(lab, "b", "pub1"):
        runs = []
        for seed in (1, 1, 2):
            with lab.conditions(Conditions(loss=0.1, seed=seed), ["b"]):
                runs.append(arrived(lab, "b", "pub1", 2000))
    lost = 2000 - len(runs[0])
    assert 140 < lost < 260  # 200, and 4.5 standard deviations
    assert runs[0] == runs[1] != runs[2]


def test_frames_keep_their_order_though_their_delays_differ(lab: Lab) -> None:
    with quiet(lab, "b", "pub1"), lab.conditions(Conditions(delay_ms=10, jitter_ms=9), ["b"]):
        came = arrived(lab, "b", "pub1", 500)
    assert came == sorted(came)
    assert len(came) == 500


def test_conditions_leave_room_for_200_mbit_per_second(lab: Lab) -> None:
    with lab.conditions(between(round_trip_ms=10, loss=0)):
        taken = seconds(lab, "b", "pub1", 64 * MIB)
    assert 64 * MIB * 8 / taken > 200e6, f"{64 * MIB * 8 / taken / 1e6:.0f} Mbit/s"


def test_the_rate_of_a_link_is_limited_each_way(lab: Lab) -> None:
    lab.limit_rate("b", up_mbit=20, down_mbit=80)
    try:
        up, down = seconds(lab, "b", "pub1", 4 * MIB), seconds(lab, "pub1", "b", 4 * MIB)
    finally:
        lab.limit_rate("b")
    assert 1.5 < up < 2.2  # 1.68 s of pure data
    assert 0.36 < down < 0.6  # 0.42 s
    assert seconds(lab, "b", "pub1", 4 * MIB) < 0.3


def test_a_cut_link_carries_nothing_until_it_is_mended(lab: Lab) -> None:
    lab.cut("a")
    try:
        with stun.servers(lab):
            assert stun.observe(lab, "a", "tcp") == stun.BLOCKED
            lab.restore("a")
            assert stun.observe(lab, "a", "tcp") == stun.INDEPENDENT
    finally:
        lab.restore("a")


def test_an_event_loop_lives_on_its_host_with_all_that_it_starts(lab: Lab) -> None:
    loop = lab.loop("pub3")
    command = ["ip", "-br", "-4", "addr", "show", "eth0"]
    assert "11.7.0.13/" in loop.call(netns.checked, command)
    assert "11.7.0.13/" not in netns.checked(["ip", "-br", "-4", "addr"])


def test_labs_live_side_by_side(lab: Lab) -> None:
    with Lab.up("second") as second:
        assert {lab.name, "second"} <= set(netlab.labs())
        seconds(second, "b", "pub1", MIB)
        with pytest.raises(FileExistsError):
            Lab.up("second")
    assert "second" not in netlab.labs()
    seconds(lab, "b", "pub1", MIB)


def test_what_a_killed_owner_leaves_is_swept_when_the_next_lab_comes_up(lab: Lab) -> None:
    with owner_of_a_lab() as (process, name):
        (sleeper,) = netns.processes_in([netlab.full_name(name, "a")])
        process.kill()
        process.wait(10)
        assert netns.lives(sleeper)
        with Lab.up("next"):
            assert name not in netlab.labs()
            assert not list(netns.NAMES.glob(netlab.full_name(name, "*")))
            assert not netns.lives(sleeper)


def test_an_interrupted_owner_takes_its_lab_with_it(lab: Lab) -> None:
    with owner_of_a_lab() as (process, name):
        process.send_signal(signal.SIGINT)
        process.wait(10)
        assert name not in netlab.labs()
        assert not list(netns.NAMES.glob(netlab.full_name(name, "*")))


def test_the_lab_can_be_used_by_hand(lab: Lab) -> None:
    def by_hand(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.nat.lab", "--lab", "byhand", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    try:
        assert "nat-byhand-a2" in by_hand("up").stdout
        assert "192.168.101.2/24" in by_hand("shell", "a", "ip", "addr").stdout
        by_hand("conditions", "--round-trip-ms", "40")
        byhand = Lab("byhand")
        assert min(round_trips(byhand, "g", 5)) >= 0.040
        by_hand("conditions")
        assert min(round_trips(byhand, "g", 5)) < 0.010
    finally:
        ended = by_hand("down")
    assert ended.returncode == 0, ended.stderr
    assert by_hand("shell", "a").returncode == 1
    assert not list(netns.NAMES.glob("nat-byhand-*"))


# ---- helpers ----


def seconds(lab: Lab, source: str, target: str, size: int) -> float:
    """Seconds until `size` bytes have come from one host to the other by TCP.

    The connection is made by whichever host is behind a NAT.
    """
    dialler, other = (source, target) if source not in topology.PUBLIC else (target, source)
    with contextlib.ExitStack() as kept:
        with lab.inside(other):
            server = kept.enter_context(socket.create_server(("0.0.0.0", PORT)))
        with lab.inside(dialler):
            address = (topology.address_of(other), PORT)
            near = kept.enter_context(socket.create_connection(address, 5))
        far = kept.enter_context(server.accept()[0])
        sender, receiver = (near, far) if dialler == source else (far, near)
        for sock in (sender, receiver):
            sock.settimeout(60)
        began = time.monotonic()
        thread = threading.Thread(target=sender.sendall, args=(bytes(size),))
        thread.start()
        left = size
        while left:
            part = receiver.recv(min(left, MIB))
            assert part, "the connection ended early"
            left -= len(part)
        thread.join()
        return time.monotonic() - began


def round_trips(lab: Lab, host: str, count: int) -> list[float]:
    """Seconds that UDP answers of pub1 took."""
    times = []
    with stun.servers(lab), lab.inside(host), socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.connect((topology.PUBLIC["pub1"], stun.PORT))
        for _ in range(count + 1):  # the first one waits for ARP
            began = time.monotonic()
            sock.send(b"address")
            sock.recv(200)
            times.append(time.monotonic() - began)
    return times[1:]


def arrived(lab: Lab, source: str, target: str, count: int) -> list[int]:
    """Which of `count` numbered datagrams arrive, in their order of arrival."""
    with lab.inside(target):
        receiver = socket.socket(type=socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * MIB)
        receiver.bind(("0.0.0.0", PORT))
    with lab.inside(source):
        sender = socket.socket(type=socket.SOCK_DGRAM)
    came = []
    with receiver, sender:
        receiver.settimeout(0.5)
        for number in range(count):
            sender.sendto(number.to_bytes(4, "big"), (topology.address_of(target), PORT))
            if number % 50 == 0:  # no burst that overflows a queue
                time.sleep(0.001)
        with contextlib.suppress(TimeoutError):
            while True:
                came.append(int.from_bytes(receiver.recv(100), "big"))
    return came


@contextlib.contextmanager
def quiet(lab: Lab, site: str, target: str) -> Iterator[None]:
    """No ARP between a router and a host: it uses up random numbers, and holds few frames back."""
    pairs = [(f"r{site}", "wan", target), (target, "eth0", f"r{site}")]
    address = {f"r{site}": topology.public_address_of(site), target: topology.PUBLIC[target]}
    hardware = {}
    for namespace, interface, _ in pairs:
        with lab.inside(namespace):
            shown = netns.checked(["ip", "-br", "link", "show", interface])
        hardware[namespace] = shown.split()[2]
    for namespace, interface, other in pairs:
        entry = f"neigh replace {address[other]} lladdr {hardware[other]} dev {interface}"
        netns.batch([f"{entry} nud permanent"], lab.names[namespace])
    yield
    for namespace, interface, other in pairs:
        netns.batch([f"neigh del {address[other]} dev {interface}"], lab.names[namespace])


@contextlib.contextmanager
def owner_of_a_lab() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process with a lab of its own; (the process, the name of the lab)."""
    command = [sys.executable, "-c", OWNER]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        netlab.sweep()
