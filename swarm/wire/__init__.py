"""Generated message classes; proto/generate.py makes them from proto/swarm/v1."""
