"""The network lab by hand: an isolated internet of namespaces with real NAT.

    python -m tests.nat.lab up                       build it; it stays until `down`
    python -m tests.nat.lab list                     the labs of this machine and their hosts
    python -m tests.nat.lab check                    find out what each NAT does
    python -m tests.nat.lab shell a                  a shell on host a (behind a home router)
    python -m tests.nat.lab shell pub1 ss -tn        one command on a public host
    python -m tests.nat.lab conditions --round-trip-ms 50 --loss 0.01
    python -m tests.nat.lab rate a --up 10 --down 50 Mbit/s of a site's link
    python -m tests.nat.lab cut a                    and: restore a
    python -m tests.nat.lab down                     end what runs in it, and remove it

Needs root, iproute2, nftables, a C compiler and /dev/net/tun. Hosts are described in topology.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from tests.nat import netlab, netns, stun, topology
from tests.nat.conditions import between
from tests.nat.netlab import Lab

HAND = "hand"  # the lab that the commands speak of, if none is named


def main(arguments: list[str]) -> int:
    """Carry out a command; the exit status."""
    options = parser().parse_args(arguments)
    if reason := netns.missing():
        print(f"no network lab here: {reason}", file=sys.stderr)
        return 1
    if options.command in ("up", "list"):
        return int(options.run(options) or 0)
    if options.lab not in netlab.labs():
        print(f"there is no lab {options.lab!r}; try: list", file=sys.stderr)
        return 1
    return int(options.run(options) or 0)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog="python -m tests.nat.lab", description=__doc__, formatter_class=form
    )
    top.add_argument("--lab", default=HAND, help=f"which lab; {HAND} if not given")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run, name: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    command(up, "up", "build a lab that stays until `down`")
    command(down, "down", "end what runs in a lab, and remove it")
    command(show, "list", "the labs of this machine and their hosts")
    command(check, "check", "find out what each NAT does; 1 if one is not as it should be")
    shell_on = command(shell, "shell", "a shell, or a command, on a host")
    shell_on.add_argument("host", choices=topology.NAMESPACES, metavar="NS")
    shell_on.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    weather = command(conditions, "conditions", "latency and loss between any two sites")
    weather.add_argument("--round-trip-ms", type=float, default=0.0)
    weather.add_argument("--loss", type=float, default=0.0, help="0 to 1, one way")
    rated = command(rate, "rate", "limit the link of a site; without limits: lift them")
    rated.add_argument("--up", type=float, default=0.0, metavar="MBIT")
    rated.add_argument("--down", type=float, default=0.0, metavar="MBIT")
    cutting = command(cut, "cut", "cut the link of a site to the internet")
    restoring = command(restore, "restore", "mend a link that was cut")
    for added in (rated, cutting, restoring):
        added.add_argument("site", choices=topology.SITES)
    return top


def up(options: argparse.Namespace) -> None:
    Lab.up(options.lab, keep=True)
    show(options)


def down(options: argparse.Namespace) -> None:
    netlab.remove(options.lab)


def show(options: argparse.Namespace) -> None:
    for lab in netlab.labs():
        print(f"lab {lab}")
        for host in topology.HOSTS:
            public = topology.public_address_of(topology.site_of(host))
            namespace = netlab.full_name(lab, host)
            print(f"  {host:5} {topology.address_of(host):15} {public:12} {namespace}")


def check(options: argparse.Namespace) -> int:
    found = stun.check(Lab(options.lab))
    print(stun.table(found))
    return int(found != stun.EXPECTED)


def shell(options: argparse.Namespace) -> None:
    words = options.words or [os.environ.get("SHELL", "/bin/sh")]
    program = shutil.which("ip") or "ip"
    name = netlab.full_name(options.lab, options.host)
    os.execv(program, ["ip", "netns", "exec", name, *words])


def conditions(options: argparse.Namespace) -> None:
    lab = Lab(options.lab)
    if options.round_trip_ms or options.loss:
        lab.set_conditions(between(options.round_trip_ms, options.loss))
    else:
        lab.clear_conditions()


def rate(options: argparse.Namespace) -> None:
    Lab(options.lab).limit_rate(options.site, up_mbit=options.up, down_mbit=options.down)


def cut(options: argparse.Namespace) -> None:
    Lab(options.lab).cut(options.site)


def restore(options: argparse.Namespace) -> None:
    Lab(options.lab).restore(options.site)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
