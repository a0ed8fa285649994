"""Helpers for all other modules, and the version."""

__version__ = "0.1.0"
