"""Timing, quality and comparison."""
