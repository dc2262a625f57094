"""The virtual world: the same node on a loop without real time, over a network, discovery and compute in memory."""
