"""Videos sampled from a model."""
