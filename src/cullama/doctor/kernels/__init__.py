"""Examines kernels without a GPU: which one an operator launches, and how fast each should be."""
