"""Everything that is not a screen: opening, profiling, optimizing, comparing and exporting models."""

__version__ = "0.1.0"
