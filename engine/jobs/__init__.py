"""Jobs: one process each, known by the files in its folder; no torch."""
