"""Discrete Gaussian noise that each client adds to its encoded vector (protocol.md §14)."""
