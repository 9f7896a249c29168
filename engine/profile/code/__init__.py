"""Analysis of the model's own Python: what each line costs, and what could be written better."""
