"""The engine: many requests share one model, its KV cache and each of its passes."""
