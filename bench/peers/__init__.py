"""Real peers, side by side: each program here runs in an environment of its own and prints JSON lines.

None of it imports p2pfusion, and p2pfusion imports none of it; `bench.side_by_side` starts them as processes.
"""
