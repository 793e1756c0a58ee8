"""Tools: what functions a model may call, and how its calls are read from what it writes."""
