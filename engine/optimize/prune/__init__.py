"""Removal of channels and heads."""
