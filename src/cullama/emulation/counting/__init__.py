"""Counters of the emulated GPU: what a launch moved, executed and waited for.

A counted kernel is a build of its own, so that others pay nothing: `translator.py` writes it, from
the control flow (`stretches.py`) and each instruction's cost (`costs.py`); `counters.h` adds up
what it writes down; `counts.py` launches it and reads the result.
"""
