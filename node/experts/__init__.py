"""Owners' experts on this machine: training, showing, sharing."""
