"""HTML: for notebooks, and as pages of their own; of values that are handed in."""
