"""Co-S2P on the paper's mix of devices: accuracy of every exit, memory, time and utilisation, beside other schemes.

    python -m bench.co_s2p TABLE ... [--seeds 3] [--jobs 2] [--limit-s 3600]
    python -m bench.co_s2p --report

Real training in virtual time: 16 nodes of `devices.toml` in one process, with the ledger, the cadence and the network
of the simulator. Runs are added to bench/results/co_s2p.jsonl; what is there is not done again. `--report` writes the
tables into docs/co_s2p.md.
"""
