"""Randomness that anyone can predict. For tests and vectors only."""

import hashlib


class PredictableRandomness:
    """Call number n returns the first bytes of SHA-256(seed || n || 0), SHA-256(seed || n || 1), ... . NOT random."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed
        self.calls = 0

    def __call__(self, size: int, /) -> bytes:
        out = b""
        while len(out) < size:
            counter = self.calls.to_bytes(8, "big") + (len(out) // 32).to_bytes(8, "big")
            out += hashlib.sha256(self.seed + counter).digest()
        self.calls += 1
        return out[:size]
