"""Settings of the modes of `prepare` that turn footage into a dataset."""
