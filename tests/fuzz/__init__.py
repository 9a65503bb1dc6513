"""Fuzzing of every decoder at the border (docs/protocol.md §11.2)."""
