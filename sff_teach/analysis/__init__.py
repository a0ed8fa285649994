"""What a network costs (``cost``, ``memory``) and what its layers hold (``probes``)."""
