"""One file a way of naming a model, found by discovery."""
