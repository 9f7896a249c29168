"""A Llama-style decoder of a chosen size with random weights."""
