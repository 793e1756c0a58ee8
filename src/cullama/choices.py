"""What users choose from, by name: backends and storage types. It imports nothing."""

BACKENDS = ("auto", "cpu", "cuda")

QUANTISED = ("q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # multiplied by compiled kernels only
DTYPES = ("auto", "float32", "float16", "bfloat16", *QUANTISED)
