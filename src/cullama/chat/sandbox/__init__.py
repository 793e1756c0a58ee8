"""Templates that came with a model: strangers' programs, run so that they can do no harm."""
