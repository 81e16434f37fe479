"""In-process swarm: fake network and faults for tests and experiments."""
