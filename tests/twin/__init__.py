"""Naive twins: the protocol written again for clarity, in plain Python integers, to test the fast path against."""
