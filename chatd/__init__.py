"""chatd: a self-hostable server for real-time one-to-one messaging."""

__version__ = "0.1.0"
