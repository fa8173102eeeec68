"""The processes that a run starts."""
