"""Number formats for weights and activations."""
