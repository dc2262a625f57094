"""Pure bytes <-> values: what travels between peers. Knows no network, no clock and no swarm."""
