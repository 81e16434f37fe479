"""The real network: libp2p by p2pd, discovery by a DHT. The only part that touches hivemind.

    network = await PeerNetwork.start(identity, run_id, NetworkConfig(port=4700), ...)
    await network.publish(record)
    pong = await network.call(peer, Ping(), Pong, timedelta(seconds=3))
    await network.shutdown()

`daemon` runs one p2pd process, `directory` keeps signed records in the DHT, `life` joins the swarm
with both and stays in it, `channel` calls other peers and answers them, `network` is what the rest
of the program sees. Every workaround of hivemind 1.1.12 lives here, beside its reason.
"""

from swarm.network.p2p.config import NetworkConfig
from swarm.network.p2p.network import PeerNetwork

__all__ = ["NetworkConfig", "PeerNetwork"]
