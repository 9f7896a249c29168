"""Files that stand alone: what an artifact carries, and what proves it in a clean process."""
