"""What leaves the app for others to read: reports, budgets and their outcomes; no torch."""
