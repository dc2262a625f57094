"""Ready-made networks, data and tasks: what the demo, the examples, the tests and the simulator learn."""
