"""HTML for notebooks, of values that are handed in."""
