"""Model files: safetensors folders and GGUF files, opened as one `Checkpoint`."""
