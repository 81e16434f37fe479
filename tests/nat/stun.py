"""What a NAT does, found out from a host behind it, in the way of STUN (RFC 5780), by UDP and TCP.

    with servers(lab):
        verdict = observe(lab, "a", "tcp")      # mapping and filtering

Three public hosts answer with the address that they see; the host asks two of them from one local
port. The mapping is *independent* if both see the same address, *symmetric* if not, *none* if it is
the host's own. Filtering is found by packets that the host did not ask for, to that mapping: from a
third address (*open* if they come), or from another port of the first (*address*), else *port*.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import selectors
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.nat import topology
from tests.nat.netlab import Lab

FIRST, SECOND, THIRD = "pub1", "pub2", "pub3"
PORT = 443  # also open to the network that lets only the web out
LOCAL_PORTS = 20000  # to 28000, below those that the kernel gives out
ANSWER_S = 0.5  # nothing in the lab is farther than a few milliseconds, unless it has conditions
TRIES = 2
PROBE = b"probe"
Address = tuple[str, int]


@dataclass(frozen=True)
class Verdict:
    """What was seen of a host by one transport."""

    mapping: str  # none, independent, symmetric; blocked if nobody answered
    filtering: str  # open, address, port; empty if blocked

    def __str__(self) -> str:
        return (
            f"{self.mapping} mapping, {self.filtering} filtering" if self.filtering else "blocked"
        )


BLOCKED = Verdict("blocked", "")
INDEPENDENT = Verdict("independent", "port")
EXPECTED = {
    **{f"pub{number}": (Verdict("none", "open"),) * 2 for number in range(1, 6)},
    "f": (Verdict("none", "port"),) * 2,
    **{host: (INDEPENDENT,) * 2 for host in ("a", "a2", "b", "g")},
    **{host: (Verdict("symmetric", "port"),) * 2 for host in ("c", "d")},
    "e": (Verdict("independent", "open"),) * 2,
    **{host: (BLOCKED, INDEPENDENT) for host in ("h", "i")},
}


def check(lab: Lab) -> dict[str, tuple[Verdict, Verdict]]:
    """The verdicts of all hosts by UDP and by TCP; takes about two seconds."""
    ways = ("udp", "tcp")
    with servers(lab), ThreadPoolExecutor(2 * len(topology.HOSTS)) as threads:
        asked = [
            [threads.submit(observe, lab, host, way) for way in ways] for host in topology.HOSTS
        ]
        found = [(udp.result(), tcp.result()) for udp, tcp in asked]
    return dict(zip(topology.HOSTS, found, strict=True))


def observe(lab: Lab, host: str, way: str) -> Verdict:
    """What the NAT of a host does with UDP ("udp") or TCP ("tcp"). `servers` have to run."""
    with lab.inside(host):
        return _observe_udp(host) if way == "udp" else _observe_tcp(host)


# ---- the host's side ----


def _observe_udp(host: str) -> Verdict:
    local = _fresh_address(host)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(local)
        seen = [_ask_udp(sock, server, "address") for server in (FIRST, SECOND)]
        if None in seen:
            return BLOCKED
        for asked, name in ((THIRD, "open"), (FIRST, "address")):
            # The order to probe comes from another socket: it must not open the filter itself.
            with socket.socket(type=socket.SOCK_DGRAM) as other:
                _ask_udp(other, asked, f"probe {seen[0][0]} {seen[0][1]}")
            if _heard(sock):
                return Verdict(_mapping(local, seen), name)
        return Verdict(_mapping(local, seen), "port")


def _ask_udp(sock: socket.socket, server: str, request: str) -> Address | None:
    sock.settimeout(ANSWER_S)
    for _ in range(TRIES):
        with contextlib.suppress(TimeoutError):
            sock.sendto(request.encode(), _server(server))
            data, sender = sock.recvfrom(200)
            if sender == _server(server):
                return _address(data)
    return None


def _heard(sock: socket.socket) -> bool:
    sock.settimeout(ANSWER_S)
    with contextlib.suppress(TimeoutError):
        return sock.recv(200) == PROBE
    return False


def _observe_tcp(host: str) -> Verdict:
    local = _fresh_address(host)
    with _tcp_socket(local) as listener, contextlib.ExitStack() as kept:
        listener.listen()
        seen = []
        for server in (FIRST, SECOND):
            sock = kept.enter_context(_tcp_socket(local))  # stays open, or the mapping goes
            seen.append(_ask_tcp(sock, server, "address"))
        if None in seen:
            return BLOCKED
        for asked, name in ((THIRD, "open"), (FIRST, "address")):
            with socket.socket() as other:
                _ask_tcp(other, asked, f"probe {seen[0][0]} {seen[0][1]}")
            listener.settimeout(ANSWER_S)
            with contextlib.suppress(TimeoutError):
                listener.accept()[0].close()
                return Verdict(_mapping(local, seen), name)
        return Verdict(_mapping(local, seen), "port")


def _tcp_socket(local: Address) -> socket.socket:
    """A socket that shares its local port with the listener, as libp2p's do."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(local)
    return sock


def _ask_tcp(sock: socket.socket, server: str, request: str) -> Address | None:
    sock.settimeout(ANSWER_S * TRIES)
    try:
        sock.connect(_server(server))
        sock.sendall(request.encode())
        return _address(sock.recv(200))
    except OSError:
        return None


def _mapping(local: Address, seen: list[Address | None]) -> str:
    if seen[0] != seen[1]:
        return "symmetric"
    return "none" if seen[0] == local else "independent"


def _fresh_address(host: str) -> Address:
    """A local address that was not used of late: routers remember, UDP for half a minute.

    No two hosts of a LAN get the same port, since their router can keep it for one only.
    """
    address = topology.address_of(host)
    return address, LOCAL_PORTS + 4 * secrets.randbelow(2000) + int(address.rpartition(".")[2]) % 4


def _server(name: str) -> Address:
    return topology.PUBLIC[name], PORT


def _address(data: bytes) -> Address:
    host, port = json.loads(data)
    return host, port


# ---- the servers' side ----


@contextlib.contextmanager
def servers(lab: Lab) -> Iterator[None]:
    """Run the three servers for as long as the context lasts."""
    sockets: list[socket.socket] = []
    ending = threading.Event()
    threads = []
    for name in (FIRST, SECOND, THIRD):
        with lab.inside(name):
            udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for sock in (udp, tcp):
                sock.bind(("0.0.0.0", PORT))
            tcp.listen(64)
            sockets += [udp, tcp]
            threads.append(threading.Thread(target=_serve, args=(udp, tcp, ending)))
            threads[-1].start()  # here, so that the sockets it makes are on this host
    try:
        yield
    finally:
        ending.set()
        for thread in threads:
            thread.join()
        for sock in sockets:
            sock.close()


def _serve(udp: socket.socket, tcp: socket.socket, ending: threading.Event) -> None:
    with selectors.DefaultSelector() as ready, contextlib.ExitStack() as kept:
        ready.register(udp, selectors.EVENT_READ)
        ready.register(tcp, selectors.EVENT_READ)
        while not ending.is_set():
            for key, _ in ready.select(0.05):
                with contextlib.suppress(OSError):
                    if key.fileobj is udp:
                        _answer_udp(udp)
                    elif key.fileobj is tcp:
                        sock = kept.enter_context(tcp.accept()[0])
                        ready.register(sock, selectors.EVENT_READ, sock)
                    else:
                        ready.unregister(key.fileobj)
                        _answer_tcp(key.data)


def _answer_udp(udp: socket.socket) -> None:
    data, sender = udp.recvfrom(200)
    if target := _to_probe(data):
        with socket.socket(type=socket.SOCK_DGRAM) as other:
            other.sendto(PROBE, target)
    udp.sendto(json.dumps(sender).encode(), sender)


def _answer_tcp(sock: socket.socket) -> None:
    sock.settimeout(ANSWER_S)
    if target := _to_probe(sock.recv(200)):
        threading.Thread(target=_probe_tcp, args=(target,)).start()
    sock.sendall(json.dumps(sock.getpeername()).encode())


def _probe_tcp(target: Address) -> None:
    with contextlib.suppress(OSError):
        socket.create_connection(target, ANSWER_S).close()


def _to_probe(data: bytes) -> Address | None:
    order, *target = data.decode().split()
    return (target[0], int(target[1])) if order == "probe" else None


def table(found: dict[str, tuple[Verdict, Verdict]]) -> str:
    """The verdicts as text, one host a line; what is not as expected is marked."""
    lines = [f"{'host':6} {'UDP':40} TCP"]
    for host, (udp, tcp) in found.items():
        wanted = " | ".join(map(str, EXPECTED[host]))
        mark = "" if (udp, tcp) == EXPECTED[host] else f"   EXPECTED {wanted}"
        lines.append(f"{host:6} {udp!s:40} {tcp}{mark}")
    return "\n".join(lines)
