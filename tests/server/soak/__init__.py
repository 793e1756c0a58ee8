"""Attacks on a running server, and the figures of what it survived: see figures.py."""
