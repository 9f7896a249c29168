"""Artifacts, and the proof that goes with each."""
