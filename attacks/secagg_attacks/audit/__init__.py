"""Audits of differential privacy: lower bounds and estimates of epsilon, and what a report may conclude from them."""
