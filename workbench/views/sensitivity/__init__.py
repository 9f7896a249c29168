"""The views of the page Sensitivity."""
