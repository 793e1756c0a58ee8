"""Compiled overrides of the numpy operators: kernels written in Python, compiled by LLVM.

`code` is the language they are written in, `machine` turns it into machine code and keeps that on
disk, `instruction_sets` says for which processors, `team` runs kernels on several cores. What
weights look like in memory is `../packed.py`'s, and what every kernel means is numpy's.
"""
