"""The composition root: the command line, the demo and everything that may see client and server both."""
