"""The graph of one call of a model."""
