"""One file a technique, found by discovery."""
