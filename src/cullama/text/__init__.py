"""Text: the tokenizer, and how a sequence's tokens become text again."""
