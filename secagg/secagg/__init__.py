"""The protocol core: pure functions and values, no input or output of its own."""
