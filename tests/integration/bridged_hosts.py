"""Hosts of a small network: namespaces on one bridge, whose cables can be pulled.

    with BridgedHosts(3) as hosts:
        subprocess.Popen([*hosts.inside(0), "node", "start", "--listen", hosts.listen(0), ...])
        hosts.pull(0)             # as a cable: nobody is told, packets just go nowhere
        hosts.plug(0)

The addresses look public, since go-libp2p does not announce others, but nothing has a route out.
"""

from __future__ import annotations

import functools
import os
import subprocess
import uuid
from collections.abc import Sequence

NETWORK = "11.9.0"
PORT = 4001


@functools.lru_cache(maxsize=1)
def why_not() -> str:
    """Why namespaces can not be made here; empty when they can."""
    name = f"probe-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces here: {error}"
    return ""


class BridgedHosts:
    """See the module docstring. The bridge is in a namespace of its own, for the machine's sake."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._mark = uuid.uuid4().hex[:6]
        self._made: list[str] = []

    def __enter__(self) -> BridgedHosts:
        try:
            switch = self._namespace("switch")
            _ip("-n", switch, "link", "add", "name", "br0", "type", "bridge")
            _ip("-n", switch, "link", "set", "br0", "up")
            for number in range(self._count):
                host = self._namespace(str(number))
                port, cable = f"p{number}", "eth0"
                _ip(
                    "-n",
                    switch,
                    "link",
                    "add",
                    "name",
                    port,
                    "type",
                    "veth",
                    "peer",
                    "name",
                    cable,
                    "netns",
                    host,
                )
                _ip("-n", switch, "link", "set", port, "master", "br0", "up")
                _ip("-n", host, "addr", "add", f"{self.address(number)}/24", "dev", cable)
                _ip("-n", host, "link", "set", cable, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def address(self, number: int) -> str:
        """IP address of a host."""
        return f"{NETWORK}.{10 + number}"

    def listen(self, number: int) -> str:
        """For `--listen`."""
        return f"{self.address(number)}:{PORT}"

    def inside(self, number: int) -> Sequence[str]:
        """Words to put before a command that is to run on a host."""
        return ["ip", "netns", "exec", self._name(str(number))]

    def pull(self, number: int) -> None:
        """Pull the host's cable at the switch."""
        _ip("-n", self._name("switch"), "link", "set", f"p{number}", "nomaster")

    def plug(self, number: int) -> None:
        """Plug it in again."""
        _ip("-n", self._name("switch"), "link", "set", f"p{number}", "master", "br0")

    def _name(self, part: str) -> str:
        return f"hosts-{self._mark}-{part}"

    def _namespace(self, part: str) -> str:
        name = self._name(part)
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")
        return name


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)
