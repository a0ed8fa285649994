"""The cost of training (``cost``, ``memory``) and analysis of trained layers (``probes``)."""
