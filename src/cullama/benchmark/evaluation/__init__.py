"""How good a model is at tasks from files: multiple choice, perplexity, answers to be judged."""
