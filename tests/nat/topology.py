"""What the lab consists of: pure descriptions, rendered to lines for `ip` and rules for `nft`.

All addresses of the lab's internet are in 11.7.0.0/24: go-libp2p does not dial documentation
ranges, and no namespace has a route that leads out of the lab, so nothing can meet their owner.

    pub1 .. pub5   public hosts                                              11.7.0.11 to .15
    f              public address, its own firewall lets nothing new in      11.7.0.21
    a, a2          two hosts of one LAN; endpoint-independent NAT            11.7.0.101
    b              endpoint-independent NAT                                  11.7.0.102
    c, d           symmetric NAT: a new public port for each destination     11.7.0.103, .104
    e              full cone NAT: whatever arrives is let in                 11.7.0.105
    g              carrier-grade NAT: home router, 100.64.7.0/24, carrier    11.7.0.107
    h              as a, but no UDP leaves                                   11.7.0.108
    i              as a, but only TCP to ports 80 and 443 leaves             11.7.0.109

A *site* is what hangs on one link of the internet: a public host, or a router with its LAN.
"""

from __future__ import annotations

from dataclasses import dataclass

NET = "11.7.0"
INTERNET = "inet"  # the namespace with the bridge that joins all sites
CARRIER = "isp"
CARRIER_NET = "100.64.7"
UNTRUSTED = "ct state established,related accept\niifname wan"


@dataclass(frozen=True)
class Nat:
    """What a router does, as nft rules; empty where it does nothing special."""

    masquerade: str = "masquerade"
    prerouting: str = ""
    forward: str = ""


# Linux keeps the source port when it masquerades, if no other host has it: that makes the mapping
# endpoint-independent. Filtering by address and port comes from connection tracking.
INDEPENDENT = Nat()
SYMMETRIC = Nat(masquerade="masquerade fully-random")
NO_UDP = Nat(forward="iifname lan meta l4proto udp drop")
WEB_ONLY = Nat(
    forward="iifname lan meta l4proto != tcp drop\niifname lan tcp dport != { 80, 443 } drop"
)


def full_cone(host: str) -> Nat:
    """Whatever arrives at the public address is for `host`."""
    return Nat(
        prerouting=f"iifname wan dnat to {host}", forward="iifname wan ct status dnat accept"
    )


@dataclass(frozen=True)
class Router:
    """A home router: `wan` on the internet (or behind the carrier), a LAN, and hosts in it."""

    lan: int  # the LAN is 192.168.<lan>.0/24
    hosts: tuple[str, ...]
    nat: Nat
    behind_carrier: bool = False


PUBLIC = {f"pub{number}": f"{NET}.{10 + number}" for number in range(1, 6)} | {"f": f"{NET}.21"}
ROUTERS = {
    "a": Router(101, ("a", "a2"), INDEPENDENT),
    "b": Router(102, ("b",), INDEPENDENT),
    "c": Router(103, ("c",), SYMMETRIC),
    "d": Router(104, ("d",), SYMMETRIC),
    "e": Router(105, ("e",), full_cone("192.168.105.2")),
    "g": Router(107, ("g",), INDEPENDENT, behind_carrier=True),
    "h": Router(108, ("h",), NO_UDP),
    "i": Router(109, ("i",), WEB_ONLY),
}
SITES = (*PUBLIC, *ROUTERS)
HOSTS = (*PUBLIC, *(host for router in ROUTERS.values() for host in router.hosts))
NAMESPACES = (INTERNET, CARRIER, *(f"r{name}" for name in ROUTERS), *HOSTS)


def site_of(host: str) -> str:
    """The site of a host: its own name, but for the second host of a LAN."""
    if host in PUBLIC:
        return host
    return next(name for name, router in ROUTERS.items() if host in router.hosts)


def address_of(host: str) -> str:
    """The address of a host's own interface."""
    if host in PUBLIC:
        return PUBLIC[host]
    router = ROUTERS[site_of(host)]
    return f"192.168.{router.lan}.{2 + router.hosts.index(host)}"


def public_address_of(site: str) -> str:
    """The address under which the internet sees a site."""
    return PUBLIC.get(site) or f"{NET}.{ROUTERS[site].lan}"


def uplink_of(site: str) -> tuple[str, str]:
    """(namespace, interface) of a site's end of its link to the internet."""
    if site in PUBLIC:
        return site, "eth0"
    return (CARRIER if ROUTERS[site].behind_carrier else f"r{site}"), "wan"


def forwards(namespace: str) -> bool:
    """Whether a namespace routes for others."""
    return namespace == CARRIER or (namespace[1:] in ROUTERS and namespace not in HOSTS)


def wiring(full: dict[str, str]) -> list[str]:
    """Lines of `ip -batch` that make all links; `full` maps a namespace to its name in this lab."""
    lines = [f"link add name br0 netns {full[INTERNET]} type bridge"]
    for site in SITES:
        namespace, interface = uplink_of(site)
        lines.append(_cable(full[INTERNET], site, full[namespace], interface))
    for name, router in ROUTERS.items():
        lines.append(f"link add name lan netns {full[f'r{name}']} type bridge")
        lines += [_cable(full[f"r{name}"], host, full[host], "eth0") for host in router.hosts]
        if router.behind_carrier:
            lines.append(_cable(full[CARRIER], name, full[f"r{name}"], "wan"))
    return [*lines, f"link add name lan netns {full[CARRIER]} type bridge"]


def settings(namespace: str) -> list[str]:
    """Lines of `ip -batch`, run inside a namespace, that give it addresses and routes."""
    if namespace == INTERNET:
        return _up("lo", "br0") + _bridged("br0", SITES)
    if namespace in PUBLIC:
        return _up("lo") + _addressed("eth0", PUBLIC[namespace])
    if namespace == CARRIER:
        inside = [name for name, router in ROUTERS.items() if router.behind_carrier]
        lines = _addressed("wan", public_address_of(inside[0])) + _bridged("lan", inside)
        return _up("lo") + lines + _addressed("lan", f"{CARRIER_NET}.1")
    if namespace in HOSTS:
        gateway = f"192.168.{ROUTERS[site_of(namespace)].lan}.1"
        lines = _addressed("eth0", address_of(namespace))
        return [*_up("lo"), *lines, f"route add default via {gateway}"]
    router = ROUTERS[namespace[1:]]
    lines = _bridged("lan", router.hosts) + _addressed("lan", f"192.168.{router.lan}.1")
    if router.behind_carrier:
        outside = _addressed("wan", f"{CARRIER_NET}.2")
        return [*_up("lo"), *lines, *outside, f"route add default via {CARRIER_NET}.1"]
    return _up("lo") + lines + _addressed("wan", public_address_of(namespace[1:]))


def rules(namespace: str) -> str:
    """The nft rules of a namespace; empty if it has none.

    What comes from outside unasked is dropped: a router that refuses it (RST, ICMP) leaves entries
    in the connection tracking that spoil hole punching.
    """
    if namespace == "f":
        return _table(
            "filter",
            input="type filter hook input priority 0; policy drop;\niifname lo accept\n"
            "ct state established,related accept\nicmp type echo-request accept",
        )
    if not forwards(namespace):
        return ""
    nat = INDEPENDENT if namespace == CARRIER else ROUTERS[namespace[1:]].nat
    return _table(
        "nat",
        pre=f"type nat hook prerouting priority dstnat;\n{nat.prerouting}",
        post=f"type nat hook postrouting priority srcnat;\noifname wan {nat.masquerade}",
    ) + _table(
        "filter",
        input=f"type filter hook input priority 0;\n{UNTRUSTED} drop",
        forward=f"type filter hook forward priority 0;\n{nat.forward}\n{UNTRUSTED} drop",
    )


def _cable(near: str, port: str, far: str, interface: str) -> str:
    return f"link add name {port} netns {near} type veth peer name {interface} netns {far}"


def _up(*interfaces: str) -> list[str]:
    return [f"link set dev {interface} up" for interface in interfaces]


def _bridged(bridge: str, ports: tuple[str, ...] | list[str]) -> list[str]:
    return [f"link set dev {port} master {bridge} up" for port in ports]


def _addressed(interface: str, address: str) -> list[str]:
    return [f"addr add {address}/24 dev {interface}", f"link set dev {interface} up"]


def _table(name: str, **chains: str) -> str:
    body = "".join(f"chain {chain} {{\n{text}\n}}\n" for chain, text in chains.items())
    return f"table ip {name} {{\n{body}}}\n"
