"""Predicts how long a launch takes on a GPU: cards, occupancy, the model, recorded launches."""
