"""Where each part of a model runs."""
