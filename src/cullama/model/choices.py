"""What users choose from, by name: backends and storage types. It imports nothing."""

BACKENDS = ("auto", "cpu", "cuda", "emulated")

# What weights are multiplied in.
FLOATS = ("float32", "float16", "bfloat16")
QUANTISED = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # by compiled kernels only
DTYPE_CHOICES = ("auto", *FLOATS, *QUANTISED)

# What `cullama quantize` writes, from most bits to fewest.
GGUF_TYPES = ("f32", "bf16", "f16", "q8_0", "q4_1", "q4_0")
