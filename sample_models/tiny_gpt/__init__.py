"""A small GPT, trained on the Python documentation."""
