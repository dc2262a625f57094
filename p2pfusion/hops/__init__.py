"""A chain of hops: a network that no device holds whole, trained by owners of data and relays between them (MP-SL)."""
