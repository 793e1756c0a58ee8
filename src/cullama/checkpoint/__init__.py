"""Model files: safetensors folders and GGUF files, behind one `open_checkpoint`."""
