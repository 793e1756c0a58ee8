"""Looks into a model while it runs: hooks, hidden states, comparison of two settings."""
