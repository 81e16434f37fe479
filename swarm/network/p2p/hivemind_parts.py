"""The parts of hivemind that a node needs, imported without the rest of it.

`import hivemind` loads its averaging, optimizer and expert packages, torch and scipy: 1.5 s of CPU
and 290 MiB for every node (measured, hivemind 1.1.12), four times on a machine that runs a testnet.
The peer-to-peer and DHT modules need none of that: 0.1 s and 40 MiB. So the packages whose
`__init__` pulls the rest in stand aside, empty, while those modules are imported. Afterwards a
plain `import hivemind` works as ever and shares the modules loaded here.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

HEAVY_PACKAGES = ("hivemind", "hivemind.dht", "hivemind.utils")
UTILS = {  # what the p2p and dht modules take from the package hivemind.utils itself
    "logging": ("get_logger",),
    "serializer": ("MSGPackSerializer", "SerializerBase"),
    "timed_storage": ("get_dht_time",),
}


@contextmanager
def _without_heavy_packages() -> Iterator[None]:
    if "hivemind" in sys.modules:
        yield
        return
    for name in HEAVY_PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.submodule_search_locations is None:
            raise ImportError(f"{name} is not installed", name=name)
        package = types.ModuleType(name)
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules[name] = package
    try:
        for submodule, names in UTILS.items():
            module = importlib.import_module(f"hivemind.utils.{submodule}")
            for name in names:
                setattr(sys.modules["hivemind.utils"], name, getattr(module, name))
        yield
    finally:
        for name in HEAVY_PACKAGES:
            sys.modules.pop(name, None)


with _without_heavy_packages():
    from hivemind.dht import node as dht_node
    from hivemind.dht.node import DHTNode
    from hivemind.dht.protocol import DHTProtocol as HivemindDHTProtocol
    from hivemind.dht.protocol import ValidationError
    from hivemind.dht.routing import DHTID
    from hivemind.dht.validation import DHTRecord, RecordValidatorBase
    from hivemind.p2p import P2P, P2PDaemonError, P2PHandlerError, PeerID, p2p_daemon
    from hivemind.p2p.p2p_daemon_bindings import control as p2pd_control
    from hivemind.proto import dht_pb2, p2pd_pb2
    from hivemind.utils.logging import use_hivemind_log_handler
    from hivemind.utils.multiaddr import Multiaddr
    from hivemind.utils.serializer import MSGPackSerializer

__all__ = [
    "DHTID",
    "P2P",
    "DHTNode",
    "DHTRecord",
    "HivemindDHTProtocol",
    "MSGPackSerializer",
    "Multiaddr",
    "P2PDaemonError",
    "P2PHandlerError",
    "PeerID",
    "RecordValidatorBase",
    "ValidationError",
    "dht_node",
    "dht_pb2",
    "p2pd_control",
    "p2pd_pb2",
]

# hivemind prints by a handler of its own and asks p2pd for as much. Its messages go to the
# "hivemind" logger like those of any library; GOLOG_LOG_LEVEL in the environment still wins.
use_hivemind_log_handler("nowhere")
p2p_daemon.loglevel = "ERROR"
