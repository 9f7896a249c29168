"""From profiles to suggestions and predictions."""
