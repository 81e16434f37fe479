"""`node demo`: a small swarm on this machine, its fault drill, and the comparison at the end."""
