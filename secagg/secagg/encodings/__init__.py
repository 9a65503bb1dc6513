"""What of a client's result enters the vector, and what a mean vector becomes: one file an encoding (protocol.md §2.7).

`base` says what an encoding is, `registry` finds them. To add one: docs/extending.md.
"""
