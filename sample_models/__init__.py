"""Sample models, one folder each, opened by path as `sample_models/NAME/model.py:build`."""
