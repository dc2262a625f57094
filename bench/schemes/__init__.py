"""Slices worth it? Every scheme and its references on real data, round by round in this process.

    python -m bench.schemes TABLE ... [--seeds 3] [--only ROW ...] [--where FIELD=NUMBER ...] [--jobs 2]
    python -m bench.schemes --report

Runs are added to bench/results/schemes.jsonl, one line each; what is there is not done again, so a table may be made
in pieces. `--report` writes the tables into docs/schemes.md.
"""
