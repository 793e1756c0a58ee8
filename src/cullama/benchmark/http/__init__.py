"""Measures a server over HTTP beside the engine in this process: server, client, figures."""
