"""`python -m bench.co_s2p`. Apart from `book`, for a worker process must be able to import what it does."""

from bench.co_s2p.book import BOOK
from bench.schemes.run import main

if __name__ == "__main__":
    raise SystemExit(main(book=BOOK))
