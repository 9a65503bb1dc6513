"""Attacks against the sum itself: what several sums, accomplices, or a server that lies make of secure aggregation."""
