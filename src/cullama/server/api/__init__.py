"""The routes: OpenAI's chat completions, completions and models, and ours beside them."""
