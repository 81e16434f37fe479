"""A swarm in one process: real protocol code on a fake network with faults."""
