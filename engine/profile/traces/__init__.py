"""Traces of torch.profiler, of any age and device: read to columns, told as reports; no torch."""
