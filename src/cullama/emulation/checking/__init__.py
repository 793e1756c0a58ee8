"""Finds what a kernel does wrong: races, reads of what nothing wrote, broken rules, slow accesses.

The check is part of counted builds (counting/), which other builds do not contain.
"""
