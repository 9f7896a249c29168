"""Everything that is not a screen: opening, profiling, optimizing, comparing, exporting."""

__version__ = "0.1.0"
