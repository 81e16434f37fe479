"""Peers, records, control messages and bulk transfers. Only `swarm.network.p2p` needs hivemind."""
