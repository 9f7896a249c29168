"""What a model costs: counts, traces, memory and the machine."""
