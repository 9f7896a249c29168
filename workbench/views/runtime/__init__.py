"""The page Runtime: a file for each view."""
