"""What executes a variant, and the file format that belongs to it."""
