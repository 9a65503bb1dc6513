"""The protocol `masked`: secure aggregation without a committee (protocol.md §12)."""
