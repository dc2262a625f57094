"""The real world: HTTP, mDNS, executor threads. aiohttp and zeroconf are visible here only; `sim` never is."""
