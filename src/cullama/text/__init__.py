"""Text: tokenizers, incremental decoding, stop strings, completions and streams."""
