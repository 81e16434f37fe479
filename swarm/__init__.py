"""expertswarm: the library. `node` is the application built on it."""

__version__ = "0.1.0"
