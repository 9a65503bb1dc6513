"""A federation in one process: `secagg simulate`, for experiments. The same training and protocol, no TLS."""
