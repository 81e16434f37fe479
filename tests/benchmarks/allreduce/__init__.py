"""Parts of bench_allreduce.py: the peers of each implementation, their group, lines and tables."""
