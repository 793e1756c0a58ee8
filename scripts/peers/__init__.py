"""Engines measured beside each other: each does the same work, in a process of its own.

`peer` says what an engine must do, and which there are; `cullama_peer`, `llama_cpp_peer` and
`transformers_peer` do it. `__main__` is an engine's own process, `worker` the other end of its
pipe, `comparison` asks several in turn and makes ratios, and `others` tells whether anyone else was
busy meanwhile. What runs in an engine's process imports little, since starting it and its memory
are measured, too.
"""
