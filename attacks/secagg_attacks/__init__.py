"""Attacks and audits of a run."""
