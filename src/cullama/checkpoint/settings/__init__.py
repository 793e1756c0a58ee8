"""Every field of a model's files that others let change a result, and what becomes of it here."""
