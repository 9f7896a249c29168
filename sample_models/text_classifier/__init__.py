"""A small transformer encoder that tells which area of the standard library a text is from."""
