"""Measures of several inference engines, each doing the same work in a process of its own.

`peer` is the interface of an engine; `cullama_peer`, `llama_cpp_peer` and `transformers_peer`
implement it. `__main__` is an engine's process, `worker` the other end of its pipe, `comparison`
measures several in turn and computes ratios, and `others` measures the load of other processes. An
engine's process imports little, since its start and its memory are measured, too.
"""
