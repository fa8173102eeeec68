"""Finds, builds and loads the parts of a CogVideoX pipeline, and adapts its transformer."""
