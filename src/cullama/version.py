"""The version: the one place that states it; packaging reads it here."""

__version__ = "0.1.0"
