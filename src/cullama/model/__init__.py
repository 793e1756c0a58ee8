"""The model: one page for every member of the Llama family, and what that page is written in."""
