"""Start a p2pd process, with what it needs to be told: TCP only, no relay of its own, our key.

p2pd exits by itself when its owner dies (its control connection or its standard output closes;
measured: 10 to 60 ms after SIGKILL of the owner, also in the middle of its start), so no process
outlives a node. Its Unix sockets live in a private directory that each start sweeps.
"""

from __future__ import annotations

import asyncio
import collections
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.network.envelope import MAX_ENVELOPE_BYTES
from swarm.network.p2p.dialling import ip_multiaddr
from swarm.network.p2p.hivemind_fixes import ReachingP2P
from swarm.network.p2p.hivemind_parts import P2P, P2PDaemonError, P2PHandlerError
from swarm.network.p2p.places import make_socket_dir, port_in_use, remove_socket_dir

# p2pd drops what is larger without a word to us, so it must let through what we refuse and count.
P2PD_MESSAGE_LIMIT = 2 * MAX_ENVELOPE_BYTES
# In a process group of its own, or Ctrl-C in the terminal would end p2pd before the node says
# goodbye through it.
LAUNCHER = "import os, sys; os.setpgid(0, 0); os.execv(sys.argv[1], sys.argv[1:])"
LAST_LINES = 3  # of its output that an error shows
PROBLEMS = (P2PDaemonError, P2PHandlerError, OSError, EOFError, ValueError)  # of hivemind's handle


async def launch(
    key_file: Path, host: str, port: int, *, listen: bool, timeout: timedelta
) -> tuple[Any, Path]:
    """hivemind's handle of a p2pd with the identity in `key_file`, and its sockets' directory.

    TCP only since averaging over QUIC loses data in p2pd (its stream close cuts the tail).
    Raises `PORT_IN_USE`, `P2P_START_FAILED` or `STAGE_TIMEOUT`; nothing is left behind then.
    """
    sockets = make_socket_dir()
    output: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    begun: list[Any] = []

    def note(p2p: Any) -> None:
        ReachingP2P.__init__(p2p)
        begun.append(p2p)

    handle: Any = type("NodeP2P", (ReachingP2P,), {"__init__": note})
    handle._UNIX_SOCKET_PREFIX = f"/unix{sockets}/"
    handle._log_p2pd_message = staticmethod(output.append)
    handle._make_process_args = staticmethod(_command)
    try:
        start = handle.create(
            identity_path=str(key_file),
            check_if_identity_free=False,  # knows RSA keys only; see twin.py
            host_maddrs=[f"{ip_multiaddr(host)}/tcp/{port}"],
            no_listen=not listen,
            nat_port_map=False,
            # As long as p2pd believes not to be public it does not start its relay a second
            # time, over our own (relay_service.py). We measure reachability, and faster.
            force_reachability="private",
            idle_timeout=10,
            startup_timeout=timeout.total_seconds(),
            persistent_conn_max_msg_size=P2PD_MESSAGE_LIMIT,
        )
        # In a task of its own: hivemind's start may swallow a cancellation, and go on.
        p2p = await in_time(start, 2 * timeout.total_seconds())
    except BaseException as error:
        for p2p in begun:
            if p2p._child is not None:  # hivemind leaves it when the start is cancelled
                p2p._terminate()
        remove_socket_dir(sockets)
        if isinstance(error, (*PROBLEMS, asyncio.TimeoutError)):
            raise _start_error(error, output, host, port) from error
        raise
    return p2p, sockets


def _command(*args: Any, **options: Any) -> list[str]:
    command = P2P._make_process_args(*args, **options)
    # p2pd's relay cuts every connection after 128 KiB or 2 minutes when two parts of its start race
    # the wrong way (15 of 26 starts, hivemind 1.1.12), and has no budget of bandwidth. This leaves
    # the first of the two out, relaying.py replaces the second.
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, *command, "-relayService=0"]


def _start_error(error: BaseException, output: Sequence[str], host: str, port: int) -> SwarmError:
    text = " | ".join([*output, str(error)])
    if "address already in use" in text:
        return port_in_use(host, port, "address already in use")
    if "failed to start in" in text or isinstance(error, asyncio.TimeoutError):
        hint = "the machine may be very busy; try again"
        return SwarmError(Code.STAGE_TIMEOUT, f"p2pd: {text}", hint)
    return SwarmError(
        Code.P2P_START_FAILED, f"p2pd: {text}", "reinstall hivemind if its p2pd does not run here"
    )
