"""What a round does, as coroutines over a small context. An algorithm knows no node, no network and no peers' names."""
