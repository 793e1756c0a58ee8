"""Compiled overrides of the numpy operators: kernels written in Python, compiled by LLVM.

`../jit` compiles kernels and runs them on several cores. What weights look like in memory is
`../packed.py`'s to say, and what every kernel means is numpy's.
"""
