"""Adapters that let other programs run their work on cullama; each needs its own package."""
