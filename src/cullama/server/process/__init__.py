"""Runs the engine in a process of its own: messages, the process, and its engine interface."""
