"""Linear layers as two thinner ones."""
