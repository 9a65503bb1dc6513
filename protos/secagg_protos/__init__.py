"""Versioned messages and services, with the stubs generated from them."""
