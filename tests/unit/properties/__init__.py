"""Hostile and clumsy input: whatever is given, the outcome is a result or one clear sentence."""
