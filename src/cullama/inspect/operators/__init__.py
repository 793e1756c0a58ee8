"""Cases of every operator: random operands, the expected outputs in float64, and the tolerance."""
