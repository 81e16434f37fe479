"""Isolated experts beside everything else that can be made of the same texts and the same compute.

python -m tests.benchmarks.assembly               train and measure what is missing, seed by seed
python -m tests.benchmarks.assembly --table       tables and plots from the lines so far
"""
