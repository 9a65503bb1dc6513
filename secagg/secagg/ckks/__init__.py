"""Sums under CKKS with one key-holder, on TenSEAL (protocol.md §13)."""
