"""Small helpers that every room may use, and the version."""

__version__ = "0.1.0"
