"""Memory: who holds it at the peak, predicted and measured, and what would fit."""
