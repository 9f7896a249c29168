"""Weights set to zero, and layers that hold only the others."""
