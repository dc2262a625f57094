"""`python -m bench.schemes`. Apart from `run`, for a worker process must be able to import what it does."""

from bench.schemes.run import main

if __name__ == "__main__":
    raise SystemExit(main())
