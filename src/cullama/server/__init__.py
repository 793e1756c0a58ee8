"""Serves a model over HTTP: a front process that speaks OpenAI's API, and an engine process.

The front holds tokenizer, chat template, text and connections, and never touches the device; the
engine process runs the model (process/worker.py). What crosses between them is token ids, in the
messages of process/messages.py; `RemoteEngine` is the engine's interface on the front's side.
"""
