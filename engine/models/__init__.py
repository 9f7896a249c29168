"""From a name or a path to a live model."""
