"""The page Memory, a file for each view."""
